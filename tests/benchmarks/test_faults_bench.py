"""The bench of faults in small: it counts what it does, and here nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.faults.disturb import Disturber
from tests.benchmarks.faults.input import damaged, fuzzed, strangers
from tests.benchmarks.faults.work import works
from tests.harness.forks import Forks


def test_a_lens_run_survives_kills_full_disks_and_crowds(forks: Forks, tmp_path: Path) -> None:
    lens, *_ = works(tmp_path)
    disturber = Disturber(lens, forks, tmp_path, seed=1)
    found = [disturber.kills(2), disturber.full_disks(2), disturber.crowds((2,))]
    assert [tally.times for tally in found] == [2, 2, 2]
    assert [(tally.differing, tally.tracebacks) for tally in found] == [(0, 0)] * 3
    (record,) = {path.parent for path in disturber.room.glob("undisturbed/*/manifest.json")}
    for read in (damaged(6, record, tmp_path, 1), *fuzzed(300, record, tmp_path, 1)):
        assert read.times == read.read + read.refused > 0
        assert not read.other


def test_weights_that_lie_are_refused_at_once(tmp_path: Path) -> None:
    read = strangers(tmp_path)
    assert read.refused == read.times > 20
    assert not read.other
    assert read.worst_s < 30


@pytest.mark.slow
def test_every_kind_of_run_survives_kills(forks: Forks, tmp_path: Path) -> None:
    for work in works(tmp_path):
        tally = Disturber(work, forks, tmp_path, seed=2).kills(10)
        assert (tally.times, tally.differing, tally.tracebacks) == (10, 0, 0), tally
