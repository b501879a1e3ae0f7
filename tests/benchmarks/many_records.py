"""Lens records of many prompts, made of arrays: what a run writes, without a model.

They go through the store, so that schema, checksums and seal are those of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lensbench.records.schema.lens import (
    LENS,
    MILESTONE_TABLE,
    MILESTONES,
    NO_CATEGORY,
    PROMPTS,
    READ_AT,
)
from lensbench.records.store import RecordStore
from tests.harness.lens_records import Settings, manifest_of

_WORDS = 5_000
_TOP_K = 5
_RELATIONS = 40
_TOKENS = 8  # of a prompt
_NEVER = "never"


@dataclass(frozen=True)
class Many:
    """What a run over many prompts looks like. Every tenth prompt is a control of the one above."""

    prompts: int
    n_layers: int
    lenses: tuple[str, ...] = ("final",)
    relations: int = _RELATIONS

    @property
    def rows(self) -> int:
        """Of the table `lens`, of one model."""
        return self.prompts * (self.n_layers + 1) * len(self.lenses)


def write_many(folder: Path, models: int, many: Many) -> Path:
    """A run folder with a record of each model; the prompts are the same ones."""
    for number in range(models):
        write_one(folder / f"model-{number:02d}", many, number)
    return folder


def write_one(folder: Path, many: Many, seed: int) -> None:
    """One model's record."""
    store = RecordStore(folder, folder.name)
    emerges, right = _drawn(many, seed)
    lens = (_lens(store.model, many, name, emerges, right, seed) for name in many.lenses)
    tables = {
        "prompts": [_prompts(store.model, many)],
        "lens": lens,
        "milestones": [_milestones(store.model, many, emerges, right)],
        "problems": [store.problems_table([])],
    }
    for name, pieces in tables.items():
        store.write_table(name, pieces)
    about = Settings(store.model, many.n_layers, lenses=many.lenses, heatmap_prompts=0)
    manifest = manifest_of(about, many.prompts) | {"kind": "lens", "problems": 0}
    store.write_manifest(manifest | {"checksums": store.checksums(tables)})


def _drawn(many: Many, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each prompt the layer at which its answer comes, and whether it does."""
    rng = np.random.default_rng([seed, 0])
    layer = np.rint(rng.normal(0.8, 0.08, many.prompts) * many.n_layers)
    right = rng.random(many.prompts) < np.where(_is_control(many), 0.03, 0.6)
    return np.clip(layer, 1, many.n_layers).astype(int), right


def _is_control(many: Many) -> np.ndarray:
    return np.arange(many.prompts) % 10 == 1


def _ids(many: Many) -> list[str]:
    return [f"r{i % many.relations:02d}-{i:06d}" for i in range(many.prompts)]


def _word(number: int) -> str:
    return f" word{number}"


def _lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """[row, item] as lists."""
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), kind))


def _of_words(numbers: np.ndarray) -> pa.Array:
    """[row, item] token ids as lists of text."""
    words = pa.array([_word(i) for i in range(_WORDS)])
    offsets = np.arange(0, numbers.size + 1, numbers.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, words.take(pa.array(numbers.reshape(-1))))


def _tokens(many: Many) -> np.ndarray:
    return np.random.default_rng(1).integers(_WORDS, size=(many.prompts, _TOKENS))


def _prompts(model: str, many: Many) -> pa.Table:
    ids, n, tokens = _ids(many), many.prompts, _tokens(many)
    control = _is_control(many)
    answers = _answers(many)
    texts = ["".join(map(_word, row)) for row in tokens]
    columns: dict[str, Any] = {
        "model": [model] * n,
        "prompt_id": ids,
        "relation": [name[:3] for name in ids],
        "prompt": texts,
        "text": texts,
        "template": ["plain"] * n,
        "answer": [_word(i).strip() for i in answers],
        "subject": [f"subject {i}" for i in range(n)],
        "control_of": [ids[i - 1] if own else None for i, own in enumerate(control)],
        "answer_id": answers,
        "answer_token": [_word(i) for i in answers],
        "answer_n_tokens": [1] * n,
        "answer_joint": ["space"] * n,
        "answer_split": [False] * n,
        "token_ids": _lists(tokens, pa.int32()),
        "tokens": _of_words(tokens),
        "n_tokens": [_TOKENS] * n,
    }
    empty = {name: [None] * n for name in PROMPTS.names if name not in columns}
    return PROMPTS.of_columns(columns | empty)


def _answers(many: Many) -> np.ndarray:
    """A control has the answer of the prompt above."""
    own = np.random.default_rng(2).integers(_WORDS, size=many.prompts)
    own[_is_control(many)] = own[np.flatnonzero(_is_control(many)) - 1]
    return own


def _lens(
    model: str, many: Many, lens: str, emerges: np.ndarray, right: np.ndarray, seed: int
) -> pa.Table:
    """The readings at the last positions, prompt by prompt."""
    rng = np.random.default_rng([seed, 1])
    n, states = many.prompts, many.n_layers + 1
    layer = np.tile(np.arange(states), n)
    at = lambda values: np.repeat(np.asarray(values), states)  # noqa: E731
    on = at(right) & (layer >= at(emerges))
    rank = np.where(on, 1, rng.integers(2, 400, n * states))
    top = rng.integers(_WORDS, size=(n * states, _TOP_K))
    top[on, 0] = at(_answers(many))[on]
    probs = np.sort(rng.dirichlet(np.ones(_TOP_K), n * states) * 0.9)[:, ::-1]
    entropy = 1 + rng.random(n * states) * (1 + many.n_layers - layer)
    last = layer == many.n_layers
    columns: dict[str, Any] = {
        "model": pa.array([model]).take(pa.array(np.zeros(n * states, int))),
        "prompt_id": pa.array(_ids(many)).take(pa.array(at(np.arange(n)))),
        "lens": pa.array([lens]).take(pa.array(np.zeros(n * states, int))),
        "site": pa.array(["embed", "resid_post"]).take(pa.array((layer > 0).astype(int))),
        "layer": layer,
        "depth": layer / many.n_layers,
        "position": np.full(n * states, _TOKENS - 1),
        "is_last": np.ones(n * states, bool),
        "token_id": at(_tokens(many)[:, -1]),
        "token": pa.array([_word(i) for i in range(_WORDS)]).take(
            pa.array(at(_tokens(many)[:, -1]))
        ),
        "entropy_bits": entropy,
        "kl_bits": np.where(last, 0, entropy / 2),
        "answer_id": at(_answers(many)),
        "answer_prob": np.where(on, probs[:, 0], 1e-3 / rank),
        "answer_rank": rank,
        "answer_ties": np.zeros(n * states, int),
        "resid_norm": 1.0 + layer,
        "cos_final": layer / many.n_layers,
        "top_ids": _lists(top, pa.int32()),
        "top_probs": _lists(probs, pa.float32()),
        "top_tokens": _of_words(top),
    }
    empty = {name: np.full(n * states, np.nan) for name in LENS.names if name not in columns}
    return LENS.of_columns(columns | empty)


def _milestones(model: str, many: Many, emerges: np.ndarray, right: np.ndarray) -> pa.Table:
    """A row of each prompt and lens: the answer's milestones where it comes, else the reason."""
    ids, n = _ids(many), many.prompts
    kinds: Sequence[str] = many.lenses
    layer = np.where(right, emerges, np.nan)
    columns: dict[str, Any] = {
        "model": [model] * n * len(kinds),
        "prompt_id": [name for name in ids for _ in kinds],
        "relation": [name[:3] for name in ids for _ in kinds],
        "lens": list(kinds) * n,
        "n_layers": [many.n_layers] * n * len(kinds),
        "top1_correct": np.repeat(right, len(kinds)),
    }
    for name in MILESTONES:
        asked = name in (*READ_AT, "kl_1bit", "copy_first")
        own = np.repeat(layer if asked else layer * np.nan, len(kinds))
        why = _NEVER if asked else NO_CATEGORY
        columns[f"{name}_layer"] = own
        columns[f"{name}_depth"] = own / many.n_layers
        columns[f"{name}_reason"] = [why if unread else None for unread in np.isnan(own)]
    empty = {name: [None] * n * len(kinds) for name in MILESTONE_TABLE.names if name not in columns}
    return MILESTONE_TABLE.of_columns(columns | empty)
