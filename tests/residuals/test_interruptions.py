"""A residual cache interrupted at any moment becomes the one of an undisturbed run."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lensbench.errors import RecordsError
from lensbench.residuals.store import open_cache
from lensbench.studies.specs.cache import CacheSpec
from lensbench.studies.stages.cache import run_cache
from tests.harness.caches import ROWS, spec_of
from tests.harness.files import UNEQUAL, contents, manifest
from tests.harness.forks import Ended, Forks, interruptions, parts_done
from tests.harness.tiny import Case


@pytest.fixture(scope="module")
def one_by_one(llama: Case, prompts: Path) -> CacheSpec:
    """One prompt a batch, so that there are many moments to be killed at."""
    return spec_of(llama.folder, prompts, batch_tokens=1, positions="all")


@pytest.fixture(scope="module")
def cache(one_by_one: CacheSpec, forks: Forks) -> Callable[..., Ended]:
    """The cache, made in this folder."""
    return partial(forks.run, run_cache, one_by_one)


@pytest.fixture(scope="module")
def undisturbed(
    cache: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert cache(out).status == 0
    return contents(out, UNEQUAL)


def kill_at_random(cache: Callable[..., Ended], out: Path, seed: int, times: int) -> None:
    for moment in interruptions(partial(parts_done, out), seed, times, [signal.SIGKILL]):
        cache(out, **moment)


def test_kills_at_random_moments_change_no_byte(
    cache: Callable[..., Ended], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    kill_at_random(cache, tmp_path / "c", seed=0, times=6)
    assert cache(tmp_path / "c").status == 0
    assert contents(tmp_path / "c", UNEQUAL) == undisturbed
    assert not list((tmp_path / "c").rglob(".*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_kills_at_random_moments_change_no_byte(
    seed: int, cache: Callable[..., Ended], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    kill_at_random(cache, tmp_path / "c", seed, times=12)
    assert cache(tmp_path / "c").status == 0
    assert contents(tmp_path / "c", UNEQUAL) == undisturbed


def test_a_resumed_cache_keeps_what_was_there(
    cache: Callable[..., Ended],
    undisturbed: dict[str, bytes],
    one_by_one: CacheSpec,
    tmp_path: Path,
) -> None:
    three = partial(lambda out: parts_done(out) >= 3, tmp_path / "c")
    assert cache(tmp_path / "c", kill=signal.SIGKILL, when=three).status == -signal.SIGKILL
    with pytest.raises(RecordsError, match="is not complete"):
        open_cache(tmp_path / "c")
    there = parts_done(tmp_path / "c")
    run_cache(one_by_one, tmp_path / "c")
    assert manifest(tmp_path / "c")["resumed_batches"] == there >= 3
    assert contents(tmp_path / "c", UNEQUAL) == undisturbed


def test_a_disk_that_fills_up_on_the_way_loses_nothing(
    cache: Callable[..., Ended], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """The largest shard, which comes last, does not fit; the index parts do."""
    sizes = sorted(len(data) for name, data in undisturbed.items() if "residuals/" in name)
    out = tmp_path / "c"
    ended = cache(out, largest_file=sizes[-1] - 1)
    assert ended.status == 2
    assert ended.said.startswith("RecordsError")
    assert "File too large" in ended.said
    assert "run the same command again to go on" in ended.said
    assert parts_done(out) == len(ROWS) - 1
    assert cache(out).status == 0
    assert contents(out, UNEQUAL) == undisturbed
