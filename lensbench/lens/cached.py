"""The lens from a residual cache: the statistics of the live lens, without a forward pass.

Residuals kept in float32 are those of the live run. The model's own logits are not kept: they are
made from the last layer by the model's readout, which the gate compared with the model's output
when the cache was made (`gate_kl_bits`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lensbench.checkpoints.devices import tokens_at_once
from lensbench.errors import RecordsError
from lensbench.lens.result import LensResult, read
from lensbench.lens.settings import LensSettings, several
from lensbench.lens.table import OF_PROMPT
from lensbench.models.model import LensModel, require_loaded, require_ref
from lensbench.models.sites import STREAM
from lensbench.prompts.encode import EncodedPrompt, Encoder
from lensbench.prompts.prompt import Prompt
from lensbench.records.facts import known_of
from lensbench.residuals.store import ResidualCache, open_cache


def lens_from_cache(
    cache: ResidualCache | str | Path,
    model: LensModel,
    *,
    layers: int | Sequence[int] | None = None,
    lens: str | Sequence[str] = "final",
    top_k: int = 5,
    metrics: str | Sequence[str] = (),
    batch_tokens: int | None = None,
) -> LensResult:
    """What `logit_lens` gives for the cached prompts, at the cached positions of each prompt.

    Args:
        cache: what `open_cache` gives, or its folder.
        model: the one the cache is of; its readout is needed, and no forward pass is run.
        layers: of the cached ones; all of them by default.
        lens, top_k, metrics, batch_tokens: as for `logit_lens`; with equal `batch_tokens` cells are
            grouped alike, and what does not involve the model's own logits is the same to the bit.

    Raises:
        RecordsError: a cache of another model, without the last layer or the layers asked for, or
            with a shard that is missing or altered.
        GateError: the last layer as it is on disk does not reproduce the model's output.
    """
    cache = cache if isinstance(cache, ResidualCache) else open_cache(cache)
    require_same(cache, _facts(require_loaded(model)))
    require_last(cache, model)
    if not len(cache.cells):
        raise RecordsError(f"{cache.folder}: no prompt of it could be cached; see its problems.")
    everywhere = cache.record.settings["positions"] == "all"
    kept = sorted({site.layer for site in cache.sites})
    settings = LensSettings(
        lenses=several(lens),
        sites=tuple(dict.fromkeys(site.kind for site in cache.sites if site.kind in STREAM)),
        layers=several(kept if layers is None else layers),
        positions="all" if everywhere else "last",
        top_k=top_k,
        metrics=several(metrics),
        batch_tokens=tokens_at_once(model.device, batch_tokens),
    )
    return read(model, cached_prompts(cache, model), settings, cache=cache)


def require_same(cache: ResidualCache, now: Mapping[str, Any]) -> None:
    """Raise RecordsError, with every difference, unless the cache is of a model of these facts.

    Facts that a cache made before does not hold are no difference.
    """
    there = cache.record.model
    differences = [
        f"  - {key}: {there.get(key)} there, {value} now"
        for key, value in known_of(there, now).items()
        if there.get(key) != value
    ]
    if differences:
        lines = "\n".join(differences)
        raise RecordsError(
            f"{cache.folder} is a cache of another model:\n{lines}\n"
            f"Give {there['name']} as it was, or make a cache of this one."
        )


def require_last(cache: ResidualCache, model: LensModel) -> None:
    """Raise RecordsError unless the cache holds the layer that the model's logits are made from."""
    last = model.final_site
    if last not in cache.sites:
        raise RecordsError(
            f"{cache.folder} lacks layer {last.layer}, the last one, from which the lens makes the "
            f"model's own output. Make a cache that keeps it: --layers ...,{last.layer}."
        )


def _facts(model: LensModel) -> dict[str, Any]:
    """What tells one loaded model from another. Raises RecordsError for one without a name."""
    ref, dtype = require_ref(model, "a cache"), str(model.dtype).removeprefix("torch.")
    return {"name": model.name, "dtype": dtype, **ref.facts()}


def cached_prompts(cache: ResidualCache, model: LensModel) -> list[EncodedPrompt]:
    """The cache's prompts as they went through the model, in the order of their set.

    Raises RecordsError when the tokenizer sees one of them in another way now.
    """
    encoder = model.encoder(cache.record.settings["template"])
    rows = cache.record.arrow("prompts").to_pylist()
    return [_encoded(encoder, row) for row in rows]


def _encoded(encoder: Encoder, row: dict[str, Any]) -> EncodedPrompt:
    fields = {name: row[name] for name in OF_PROMPT}
    prompt = encoder.encode(Prompt(id=row["prompt_id"], **fields), row["null_category"])
    if list(prompt.token_ids) != row["token_ids"]:
        raise RecordsError(
            f"prompt '{row['prompt_id']}' has other tokens now than in the cache. The tokenizer's "
            "library was changed: make the cache again."
        )
    return replace(prompt, shared_with=row["answer_shared_with"])
