"""The lens read from a residual cache is the lens live."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lensbench import Prompt, logit_lens
from lensbench.errors import RecordsError
from lensbench.lens.cached import cached_prompts, lens_from_cache
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.records.schema import KINDS
from lensbench.residuals.store import ResidualCache, open_cache
from lensbench.studies.lens import run
from lensbench.studies.specs.cache import CacheSpec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.stages.cache import run_cache
from lensbench.studies.stages.cached import run_cached
from tests.harness.caches import BATCH_TOKENS, ROWS, require_equal, spec_of, write_prompts
from tests.harness.families import distinct_families
from tests.harness.files import manifest
from tests.harness.tiny import Case


@distinct_families
def test_the_lens_reads_from_the_cache_what_it_computes_live(
    family: Case, prompts: Path, tmp_path: Path
) -> None:
    run_cache(spec_of(family.folder, prompts, positions="all"), tmp_path)
    require_live(open_cache(tmp_path), load_model(family.folder, device="cpu"), "all")


def test_the_last_positions_are_read_alike(make: Callable[..., Path], model: LensModel) -> None:
    require_live(open_cache(make()), model, "last")


def require_live(cache: ResidualCache, model: LensModel, positions: str) -> None:
    """Every statistic of every lens, from the cache and from a forward pass over equal batches."""
    lenses: tuple[Any, ...] = ("final", "next", "raw")
    cached = lens_from_cache(cache, model, lens=lenses, batch_tokens=BATCH_TOKENS)
    asked = [Prompt(item, text, "capital", answer) for item, text, answer in ROWS]
    live = logit_lens(model, asked, lens=lenses, positions=positions, batch_tokens=BATCH_TOKENS)
    require_equal(cached.to_pandas(), live.to_pandas(), exactly=True)
    assert cached.prompts.equals(live.prompts)


def test_without_equal_batches_it_is_the_same_within_rounding(
    make: Callable[..., Path], model: LensModel
) -> None:
    cached = lens_from_cache(open_cache(make(positions="all")), model, layers=[1, 3])
    asked = [Prompt(item, text, "capital", answer) for item, text, answer in ROWS]
    live = logit_lens(model, asked, layers=[1, 3], batch_tokens=1)
    require_equal(cached.to_pandas(), live.to_pandas(), exactly=False)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_the_record_from_a_cache_is_that_of_a_live_run(
    positions: str, make: Callable[..., Path], llama: Case, prompts: Path, tmp_path: Path
) -> None:
    heat_maps = 12 if positions == "all" else 0
    spec = RunSpec((str(llama.folder),), str(prompts), None, heatmap_prompts=heat_maps)
    spec = spec.changed(batch_tokens=BATCH_TOKENS)
    live = run(spec, tmp_path / "live").folders[0]
    made = run_cached(str(llama.folder), make(positions=positions), tmp_path / "cached")
    folder, problems = made
    assert problems == []
    assert manifest(folder)["settings"]["residuals_from"] == "cache"
    assert manifest(folder)["gate"] == manifest(make(positions=positions))["gate"]
    for name in KINDS["lens"].names:
        a, b = (pq.read_table(f / f"{name}.parquet") for f in (folder, live))
        assert a.schema.equals(b.schema)
        if name == "lens":
            require_equal(a.to_pandas(), b.to_pandas(), exactly=False)
            assert a["prompt_id"].equals(b["prompt_id"])  # the order too
        else:
            assert a.equals(b)
    before = (folder / "manifest.json").read_bytes()
    assert run_cached(str(llama.folder), make(positions=positions), tmp_path / "cached") == made
    assert (folder / "manifest.json").read_bytes() == before  # nothing was done again


def test_a_record_needs_every_layer_and_a_lens_the_last(
    make: Callable[..., Path], llama: Case, model: LensModel, tmp_path: Path
) -> None:
    with pytest.raises(RecordsError, match=r"lacks layer 1, and a record's milestones"):
        run_cached(str(llama.folder), make(positions="all", layers=(0, 2, 3)), tmp_path)
    cache = open_cache(make(layers=(0, 1)))
    with pytest.raises(RecordsError, match=r"lacks layer 3, the last one"):
        lens_from_cache(cache, model)


def test_positions_that_were_not_kept_are_refused(
    make: Callable[..., Path], model: LensModel
) -> None:
    cache = open_cache(make())
    (prompt,) = [p for p in cached_prompts(cache, model) if p.prompt.id == "germany"]
    with pytest.raises(RecordsError, match=r"position 1 of prompt 'germany': it keeps --positions"):
        cache.residuals(model, [prompt.prompt.id], [[1]], model.sites())


@pytest.mark.slow
@pytest.mark.real
def test_the_demo_model_from_a_cache(smollm: LensModel, tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "p.csv", ROWS[:1])
    run_cache(CacheSpec("smollm2-135m", str(path), dtype="float32", device="cpu"), tmp_path / "c")
    found = lens_from_cache(open_cache(tmp_path / "c"), smollm).to_pandas()
    last = found.sort_values("layer").iloc[-1]
    assert (last.top_tokens[0], last.answer_rank) == (" Berlin", 1)
    asked = Prompt("germany", ROWS[0][1], "capital", "Berlin")
    live = logit_lens(smollm, [asked], positions="last").to_pandas()
    require_equal(found, live, exactly=True)
