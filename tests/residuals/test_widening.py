"""A residual cache is widened: its shards stay, and the lens reads it as one of all prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lensbench.errors import RecordsError
from lensbench.residuals.store import open_cache
from lensbench.studies.stages.cache import run_cache
from lensbench.studies.stages.cached import run_cached
from tests.harness.caches import ROWS, spec_of
from tests.harness.files import contents, manifest, table
from tests.harness.tiny import Case


def test_a_cache_keeps_its_shards_and_gets_the_other_prompts(
    llama: Case, prompts: Path, make: Callable[..., Path], tmp_path: Path
) -> None:
    narrow, wide = (spec_of(llama.folder, prompts, limit=limit) for limit in (1, None))
    run_cache(narrow, tmp_path)
    shards = contents(tmp_path / "residuals")
    run_cache(wide, tmp_path)
    now = contents(tmp_path / "residuals")
    assert {name: now[name] for name in shards} == shards
    cache, whole = open_cache(tmp_path), open_cache(make())
    assert sorted(cache.cells.prompt_id) == sorted(whole.cells.prompt_id)
    assert all(what is None for _, what in cache.files.verify())
    for site in whole.sites:
        ours, theirs = (
            dict(zip(each.cells.prompt_id, each.layer(site).numpy(), strict=True))
            for each in (cache, whole)
        )
        for item, vector in theirs.items():
            np.testing.assert_allclose(ours[item], vector, rtol=1e-4, atol=1e-5)
    made = manifest(tmp_path)
    assert set(made["prompt_sha256"]) == set(manifest(make())["prompt_sha256"])
    assert made["stored_kl_bits"] >= made["widened"][0]["stored_kl_bits"]
    assert [each["settings"]["limit"] for each in made["widened"]] == [1]


def test_the_lens_reads_a_widened_cache(llama: Case, prompts: Path, tmp_path: Path) -> None:
    """What was read from the narrower cache is another record."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    run_cache(spec_of(llama.folder, prompts, limit=1), cache)
    run_cached(llama.folder, cache, out / "narrow")
    run_cache(spec_of(llama.folder, prompts), cache)
    with pytest.raises(RecordsError, match=r"settings\.n_prompts"):
        run_cached(llama.folder, cache, out / "narrow")
    folder, problems = run_cached(llama.folder, cache, out / "wide")
    assert problems == []
    assert len(table(folder, "prompts")) == len(ROWS)
