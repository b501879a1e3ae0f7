"""Readings and encoded prompts as record tables (records/schema/lens.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lensbench.lens.logit import BatchReadings
from lensbench.lens.vocabulary import statistics
from lensbench.models.model import LensModel
from lensbench.models.text_encoder import TextEncoder
from lensbench.prompts.encode import EncodedPrompt, TokenText
from lensbench.prompts.prompt import LINKS
from lensbench.records.schema.lens import LENS, PROMPTS

OF_PROMPT = ("relation", "prompt", "answer", "category", "subject", *LINKS)  # as a Prompt has them


def measured() -> tuple[str, ...]:
    """The columns of numbers."""
    others = ("answer_guess_rank", "resid_norm", "cos_final")
    return (
        *statistics.STATISTICS,
        *statistics.DIVERGENCES,
        *statistics.TOKEN_STATISTICS,
        *others,
    )


def lens_table(model: LensModel, readings: BatchReadings, text: TokenText) -> pa.Table:
    """One row per lens x prompt x position x site, in that order."""
    tables = [
        _one_lens(model, readings, lens, statistics, text)
        for lens, statistics in readings.lenses.items()
    ]
    return pa.concat_tables(tables) if tables else LENS.schema.empty_table()


def _one_lens(
    model: LensModel,
    readings: BatchReadings,
    lens: str,
    found: dict[str, Any],
    text: TokenText,
) -> pa.Table:
    sites = readings.sites_of[lens]
    n_sites = len(sites)
    cells = [
        (prompt, position)
        for prompt, positions in zip(readings.prompts, readings.positions, strict=True)
        for position in positions
    ]

    def per_cell(values: Sequence[Any]) -> pa.Array:
        return pa.array([value for value in values for _ in range(n_sites)])

    def per_site(values: Sequence[Any]) -> pa.Array:
        return pa.array(list(values) * len(cells))

    columns: dict[str, pa.Array] = {
        "model": pa.array([model.name] * (n_sites * len(cells))),
        "lens": pa.array([lens] * (n_sites * len(cells))),
        "prompt_id": per_cell([prompt.prompt.id for prompt, _ in cells]),
        "position": per_cell([position for _, position in cells]),
        "is_last": per_cell([p == len(prompt.token_ids) - 1 for prompt, p in cells]),
        "token_id": per_cell([prompt.token_ids[p] for prompt, p in cells]),
        "token": per_cell([text(prompt.token_ids[p]) for prompt, p in cells]),
        "answer_id": per_cell([prompt.answer.id if prompt.answer else None for prompt, _ in cells]),
        "site": per_site([site.name for site in sites]),
        "layer": per_site([site.layer for site in sites]),
        "depth": per_site([site.depth(model.n_layers) for site in sites]),
    }
    for name in measured():
        columns[name] = _numbers(LENS.schema.field(name).type, found[name].numpy())
    ids = found["top_ids"].numpy().transpose(1, 0, 2)  # [cell, site, k]
    columns["top_ids"] = _lists(ids)
    columns["top_probs"] = _lists(found["top_probs"].numpy().transpose(1, 0, 2))
    words = [text(int(token)) for token in ids.reshape(-1)]
    columns["top_tokens"] = _lists(np.array(words, dtype=object).reshape(ids.shape))
    return pa.table({f.name: columns[f.name].cast(f.type) for f in LENS.schema}, schema=LENS.schema)


def _numbers(kind: pa.DataType, values: np.ndarray) -> pa.Array:
    """[site, cell] as one column, cell by cell; NaN (not measurable) becomes null."""
    flat = values.T.reshape(-1)
    missing = np.isnan(flat)
    if pa.types.is_integer(kind):
        return pa.array(np.where(missing, 0, flat).astype(np.int32), mask=missing)
    return pa.array(flat, mask=missing)


def _lists(values: np.ndarray) -> pa.Array:
    """[cell, site, k] as a column of lists."""
    k = values.shape[-1]
    offsets = np.arange(0, values.size + 1, k, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def prompts_table(
    model: LensModel | TextEncoder, prompts: Sequence[EncodedPrompt], text: TokenText
) -> pa.Table:
    """One row per prompt, as this model's tokenizer sees it."""
    rows = [_prompt_row(model.name, item, text) for item in prompts]
    return PROMPTS.of_rows(rows)


def _prompt_row(model: str, item: EncodedPrompt, text: TokenText) -> dict[str, Any]:
    prompt, answer = item.prompt, item.answer
    return {
        "model": model,
        "prompt_id": prompt.id,
        **{name: getattr(prompt, name) for name in OF_PROMPT},
        "text": item.text,
        "template": item.template,
        "answer_id": answer.id if answer else None,
        "answer_token": text(answer.id) if answer else None,
        "answer_n_tokens": len(answer.token_ids) if answer else None,
        "answer_joint": answer.joint if answer else None,
        "answer_split": answer.split if answer else None,
        "answer_other_id": item.answer_other.id if item.answer_other else None,
        "answer_other_token": text(item.answer_other.id) if item.answer_other else None,
        "answer_shared_with": item.shared_with,
        "category_id": item.category.id if item.category else None,
        "null_category": item.null_category.text if item.null_category else None,
        "null_category_id": item.null_category.id if item.null_category else None,
        "token_ids": list(item.token_ids),
        "tokens": [text(token) for token in item.token_ids],
        "n_tokens": len(item.token_ids),
    }
