"""What a plan says in words, of plans made by hand."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from lensbench.cli.planned import show_plan
from lensbench.costs.cost import Cost
from lensbench.costs.plan import Plan
from lensbench.costs.planned import Planned
from lensbench.costs.range import Range

_HERE = Path()


def _said(*records: Planned) -> str:
    console = Console(file=StringIO(), width=80)
    show_plan(Plan(list(records), 0.0), console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_plan_that_is_all_in_the_way_is_not_said_to_be_beyond_counting() -> None:
    refused = Planned("a", _HERE, unknown="see there", obstacles=["it holds another run"])
    uncounted = Planned("b", _HERE, unknown="no model is run")
    said = _said(refused)
    assert "Nothing of this can be run as it is." in said
    assert "a: it holds another run" in said
    assert "Nothing of this can be counted beforehand." in _said(uncounted)
    assert "Nothing of this can be counted beforehand." in _said(refused, uncounted)


@pytest.mark.parametrize(
    ("n", "n_uncounted", "said"),
    [
        (1, 0, "The one record is there, and costs nothing."),
        (2, 0, "Of 2 records 2 are there, and cost nothing."),
        (1, 1, "Of 2 records 1 is there, and costs nothing."),
    ],
)
def test_what_is_there_costs_nothing(n: int, n_uncounted: int, said: str) -> None:
    there = [Planned("a", _HERE, left=Cost())] * n
    assert said in _said(*there, *[Planned("b", _HERE, unknown="no model")] * n_uncounted)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((445_000, 1_100_000), "445kB-1.1MB"),
        ((100, 500), "100-500B"),
        ((300, 300), "300B"),
        ((8e6, 2e7), "8.0-20MB"),
    ],
)
def test_both_ends_of_a_range_have_their_unit(ends: tuple[float, float], said: str) -> None:
    cost = Cost(n_tokens=10, n_padded=10)
    shown = _said(Planned("a", _HERE, left=cost, whole=cost, disk_bytes=Range(*ends)))
    assert f" {said} " in shown
