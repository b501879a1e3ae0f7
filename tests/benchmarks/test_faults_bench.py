"""The bench of faults in small: it counts what it does, and here nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.faults.disturb import Disturber, Tally
from tests.benchmarks.faults.input import MOST_BYTES, MOST_S, Read, damaged, fuzzed, strangers
from tests.benchmarks.faults.place import may_mount
from tests.benchmarks.faults.strangers import SPOILT
from tests.benchmarks.faults.work import retrieval_works, works
from tests.harness.clock import jumping_clock
from tests.harness.forks import Forks

SLOW = ("safetensors: header of nothing", "config: 60 MB of nothing", "config: 1e5 blocks")


@pytest.mark.slow
def test_a_lens_run_survives_kills_full_disks_and_crowds(forks: Forks, tmp_path: Path) -> None:
    lens, *_ = works(tmp_path)
    disturber = Disturber(lens, forks, tmp_path, seed=1)
    found = [disturber.kills(2), disturber.crowds((2,)), disturber.read_only(1)]
    found.append(disturber.altered(2))
    assert [tally.times for tally in found] == [2, 2, 1, 2]
    assert [(tally.differing, tally.tracebacks) for tally in found] == [(0, 0)] * 4
    (record,) = {path.parent for path in disturber.room.glob("undisturbed/*/manifest.json")}
    for read in (damaged(6, record, tmp_path, 1), *fuzzed(300, record, tmp_path, 1)):
        assert read.times == read.read + read.refused > 0
        assert not read.other


@pytest.mark.slow
def test_what_strangers_send_is_refused_in_bounded_time_and_memory(
    forks: Forks, tmp_path: Path
) -> None:
    quick = {name: spoil for name, spoil in SPOILT.items() if name not in SLOW}
    require_bounded(strangers(tmp_path, forks, quick))


@pytest.mark.slow
def test_what_takes_strangers_bombs_longest_is_bounded_too(forks: Forks, tmp_path: Path) -> None:
    require_bounded(strangers(tmp_path, forks, {name: SPOILT[name] for name in SLOW}))


def require_bounded(read: Read) -> None:
    assert read.refused == read.times > 0
    assert not read.other
    assert read.worst_s < MOST_S
    assert read.worst_bytes < MOST_BYTES


def disturbed(disturber: Disturber, jumping: Forks | None) -> Iterator[Tally]:
    yield disturber.kills(3)
    if may_mount():
        yield disturber.full_disks(2)
    yield disturber.crowds((2, 8))
    yield disturber.read_only(2)
    if jumping is not None:
        yield disturber.jumping_clock(1, jumping)
    if disturber.work.name != "index build":
        yield disturber.altered(3)


@pytest.mark.slow
def test_every_kind_of_run_survives_everything(forks: Forks, open_folder: Path) -> None:
    clock = jumping_clock(open_folder)
    jumping = Forks(clock) if clock and " " not in clock["LD_PRELOAD"] else None
    for work in (*works(open_folder), *retrieval_works(open_folder)):
        for tally in disturbed(Disturber(work, forks, open_folder, seed=2), jumping):
            assert (tally.differing, tally.tracebacks) == (0, 0), tally
            assert tally.times
    if jumping is not None:
        jumping.close()
