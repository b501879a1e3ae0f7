"""A lens record from a residual cache: the run's tables without the model's forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import Problem, RecordsError
from lensbench.lens.cached import cached_prompts, require_last, require_same
from lensbench.lens.fitted.artifact import lens_kinds
from lensbench.lens.gate import require, stored_identity
from lensbench.lens.record import (
    Reader,
    Reading,
    lens_tables,
    made_again_in_run,
    plan_readings,
    read,
)
from lensbench.lens.registry import LENSES
from lensbench.models.adapted import facts_of
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.progress import Progress, Watch, ignore
from lensbench.prompts.encode import TokenText
from lensbench.records.engine import Work, make
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request
from lensbench.records.store import RecordStore, folder_name
from lensbench.residuals.store import ResidualCache, open_cache
from lensbench.studies.lens import fitted_settings, lens_settings, require_final
from lensbench.studies.specs.lens import RunSpec

# Settings of a cache that are those of the lens run as well.
_SHARED = ("prompts", "limit", "relations", "sites", "template", "batch_tokens", "dtype", "device")


def run_cached(
    model: str | Path | ModelRef,
    folder: Path,
    out: Path,
    top_k: int = 5,
    device: str | None = None,
    progress: Watch = ignore,
    lenses: Sequence[str] = tuple(LENSES),
) -> tuple[Path, list[Problem]]:
    """The lens record of a cache's prompts into `out/<model>/`, as a live run of them writes it.

    Heat maps need every position, so they come from a cache of all positions only. The manifest
    names the cache in its settings, and the gate in it is that of the caching run. Returns the
    record's folder and the prompts that are skipped.

    Raises:
        InputProblems: an unknown lens, or a fitted one without `final`.
        RecordsError: no cache, one of another model or without some layers, an altered shard.
        GateError: the last layer as it is on disk does not reproduce the model's output.
    """
    require_final(lenses)
    cache = open_cache(folder)
    ref = ModelRef.of(model)
    progress(Progress(f"hashing the weights of {ref}"))
    facts = facts_of(ref, cache.record.settings["dtype"], device)
    store = RecordStore(out / folder_name(str(ref)), str(ref))
    kinds = lens_kinds(lenses, ref.name)
    spec = _spec(cache, top_k, lenses)
    request = Request(store, _settings(cache, spec) | fitted_settings(kinds), facts)

    def prepare(record: Recording) -> Work[Reader, Reading]:
        require_same(cache, {**facts, "name": str(ref)})
        progress(Progress(f"loading {ref}"))
        loaded = _open(cache, ref, device)
        require([stored_identity(loaded, cache.gate_kl_bits, cache.dtype)])
        encoded = cached_prompts(cache, loaded)
        record.begin({**cache.record.model, **loaded.arithmetic})
        reader = Reader(loaded, TokenText(loaded.tokenizer), record.id, cache)

        def finish(parts: Parts) -> Finished:
            problems = [*cache.record.problems, *parts.problems]
            tables = lens_tables(reader, encoded, parts)
            told = {"lenses": kinds} if kinds else {}
            told |= made_again_in_run(parts, record.widened)
            return Finished(problems, tables, gate=cache.record.manifest["gate"], facts=told)

        prompts = [[item.prompt for item in encoded]]
        plan = plan_readings(encoded, prompts, lens_settings(spec), spec.heatmap_prompts)
        return Work(reader, read, plan, finish)

    return store.folder, make(request, prepare, progress)


def _settings(cache: ResidualCache, spec: RunSpec) -> dict[str, Any]:
    """Those of the live run, and what cache the numbers are from."""
    made = cache.record.settings
    taken = {key: made[key] for key in ("prompts", "prompts_sha256", "n_prompts", "seed")}
    residuals = {"residuals_from": "cache", "residuals_sha256": cache.files.record}
    return spec.settings() | taken | residuals | {"residual_dtype": made["residual_dtype"]}


def _spec(cache: ResidualCache, top_k: int, lenses: Sequence[str]) -> RunSpec:
    made = cache.record.settings
    shared = {key: made[key] for key in _SHARED}
    spec = RunSpec(models=("cached",), **shared, top_k=top_k, lenses=tuple(lenses))
    return spec if made["positions"] == "all" else spec.changed(heatmap_prompts=0)


def _open(cache: ResidualCache, ref: ModelRef, device: str | None) -> LensModel:
    """The model, if the cache holds what a record is made of."""
    model = load_model(ref, dtype=cache.record.settings["dtype"], device=device)
    require_last(cache, model)
    missing = [site for site in model.sites() if site not in cache.sites]
    if missing:
        layers = ", ".join(str(site.layer) for site in missing)
        raise RecordsError(
            f"{cache.folder} lacks layer {layers}, and a record's milestones are read at every "
            "layer. Make a cache with --layers all."
        )
    return model
