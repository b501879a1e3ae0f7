"""A lens record from a residual cache: the run's tables without the model's forward passes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import Problem, RecordsError
from lensbench.lens.cached import cached_prompts, require_last, require_same
from lensbench.lens.gate import require, stored_identity
from lensbench.models.adapted import facts_of
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.records.manifest import new_manifest, peak_memory_bytes
from lensbench.records.residuals import shards_in
from lensbench.records.store import RecordStore, folder_name
from lensbench.residuals.store import ResidualCache, open_cache
from lensbench.studies.lens import (
    Progress,
    is_complete,
    lens_jobs,
    measure,
    write_tables,
)
from lensbench.studies.lens_spec import RunSpec

# Settings of a cache that are those of the lens run as well.
_SHARED = ("prompts", "limit", "relations", "sites", "template", "batch_tokens", "dtype", "device")


def run_cached(
    model: str | Path | ModelRef,
    folder: Path,
    out: Path,
    top_k: int = 5,
    device: str | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[Path, list[Problem]]:
    """The lens record of a cache's prompts into `out/<model>/`, as a live run of them writes it.

    Heat maps need every position, so they come from a cache of all positions only. The manifest
    names the cache in its settings, and the gate in it is that of the caching run. Returns the
    record's folder and the prompts that are left out.

    Raises:
        RecordsError: no cache, one of another model or without some layers, an altered shard.
        GateError: the last layer as it is on disk does not reproduce the model's output.
    """
    cache = open_cache(folder)
    ref = ModelRef.of(model)
    store = RecordStore(out / folder_name(str(ref)), str(ref))
    settings = _settings(cache, top_k)
    facts = facts_of(ref, cache.manifest["settings"]["dtype"], device)
    with store.locked():
        if not is_complete(store, settings, facts):
            require_same(cache, facts | {"name": str(ref)})
            loaded = _open(ref, cache, device)
            _run(cache, loaded, store, settings, progress)
        return store.folder, store.problems()


def _settings(cache: ResidualCache, top_k: int) -> dict[str, Any]:
    """Those of the live run, and what cache the numbers are from."""
    made = cache.manifest["settings"]
    own = _spec(cache, top_k).settings()
    taken = {key: made[key] for key in ("prompts", "prompts_sha256", "n_prompts", "seed")}
    residuals = {"residuals_from": "cache", "residuals_sha256": shards_in(cache.folder)}
    return own | taken | residuals | {"residual_dtype": made["residual_dtype"]}


def _spec(cache: ResidualCache, top_k: int) -> RunSpec:
    made = cache.manifest["settings"]
    spec = RunSpec(models=("cached",), **{key: made[key] for key in _SHARED}, top_k=top_k)
    return spec if made["positions"] == "all" else spec.changed(heatmap_prompts=0)


def _open(ref: ModelRef, cache: ResidualCache, device: str | None) -> LensModel:
    """The model, if the cache holds what a record is made of."""
    model = load_model(ref, dtype=cache.manifest["settings"]["dtype"], device=device)
    require_last(cache, model)
    missing = [site for site in model.sites() if site not in cache.sites]
    if missing:
        layers = ", ".join(str(site.layer) for site in missing)
        raise RecordsError(
            f"{cache.folder} lacks layer {layers}, and a record's milestones are read at every "
            "layer. Make a cache with --layers all."
        )
    return model


def _run(
    cache: ResidualCache,
    model: LensModel,
    store: RecordStore,
    settings: dict[str, Any],
    progress: Progress,
) -> None:
    started = time.monotonic()
    require([stored_identity(model, cache.gate_kl_bits, cache.dtype)])
    encoded = cached_prompts(cache, model)
    manifest = new_manifest(cache.manifest["model"], settings)
    store.start(manifest)
    jobs = list(lens_jobs(_spec(cache, settings["top_k"]), encoded))
    kept = measure(model, jobs, store, manifest, progress, cache)
    lens, found, _ = store.parts(len(jobs), "lens")
    left_out = list(dict.fromkeys(RecordStore(cache.folder, "", "cache").problems() + found))
    write_tables(model, store, encoded, lens, left_out)
    store.finish(
        manifest
        | {
            "gate": cache.manifest["gate"],
            "problems": len(left_out),
            "resumed_batches": kept,
            "wall_s": round(time.monotonic() - started, 1),
            "peak_memory_bytes": peak_memory_bytes(),
        }
    )
