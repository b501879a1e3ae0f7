"""Every number in the committed tables is that of before, to the last digit, whatever its name.

Ends of intervals are those of today's method.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.numbers import Names, Tables, archived, committed, differences, read_table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def before() -> Tables:
    return archived(HERE / "tables_before.tar.xz")


def test_the_numbers_of_every_committed_table_are_those_of_before(before: Tables) -> None:
    names = Names.read(HERE / "renamed.toml")
    assert len(before) == 112
    assert list(differences(before, committed(ROOT), names)) == []
    assert names.idle() == []


def digit(tables: Tables) -> None:
    tables["tables/models.csv"][1]["share_sum"] = "0.583333334"


def written_otherwise(tables: Tables) -> None:
    tables["tables/models.csv"][0]["share"] = "0.50"


def in_a_text(tables: Tables) -> None:
    tables["tables/models.csv"][1]["layers"] = "12, 16-27"


def null(tables: Tables) -> None:
    tables["tables/models.csv"][0]["share"] = ""


def lost_column(tables: Tables) -> None:
    for row in tables["tables/models.csv"]:
        del row["share_sum"]


def lost_row(tables: Tables) -> None:
    del tables["tables/models.csv"][0]


def swapped_labels(tables: Tables) -> None:
    rows = tables["tables/models.csv"]
    rows[0]["model"], rows[1]["model"] = rows[1]["model"], rows[0]["model"]


def lost_table(tables: Tables) -> None:
    del tables["tables/models.csv"]


@pytest.fixture
def small() -> Tables:
    text = 'model,layers,share,share_sum\na,"1-2, 5",0.5,0.25\nb,"12, 16-26",0.75,0.583333333\n'
    return {"tables/models.csv": read_table(text)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (digit, ["models.csv, row 'b, 12, 16-26', column share_sum: '0.583333333' before"]),
        (written_otherwise, ["row 'a, 1-2, 5', column share: '0.5' before, '0.50' today"]),
        (in_a_text, ["the row 'b, 12, 16-26' is gone"]),
        (null, ["row 'a, 1-2, 5', column share: '0.5' before, '' today"]),
        (lost_column, ["models.csv: the column share_sum is gone"]),
        (lost_row, ["models.csv: the row 'a, 1-2, 5' is gone"]),
        (swapped_labels, ["the row 'a, 1-2, 5' is gone", "the row 'b, 12, 16-26' is gone"]),
        (lost_table, ["models.csv: the table is gone"]),
    ],
)
def test_whatever_changes_is_named(
    small: Tables, change: Callable[[Tables], None], named: list[str]
) -> None:
    today = copy.deepcopy(small)
    change(today)
    found = list(differences(small, today, Names()))
    assert len(found) == len(named)
    for sentence, part in zip(found, named, strict=True):
        assert part in sentence


def test_what_is_new_is_no_difference(small: Tables) -> None:
    today = copy.deepcopy(small)
    rows = today["tables/models.csv"]
    today["tables/new.csv"] = copy.deepcopy(rows)
    rows.insert(0, {"model": "c", "layers": "1", "share": "1", "share_sum": "1"})
    for row in rows:
        row["new"] = "3"
    assert list(differences(small, today, Names())) == []


def test_ends_of_intervals_are_those_of_today_s_method() -> None:
    before = {
        "a.csv": read_table(
            "model,depth,depth_low,low,diff_high,depth_reason,x_low_bits\na,1,0,0,0,,0\n"
        )
    }
    today = {
        "a.csv": read_table(
            "model,depth,depth_low,low,diff_high,depth_reason,x_low_bits\na,1,,1,1,6 few,2\n"
        )
    }
    assert list(differences(before, today, Names())) == []
    today["a.csv"][0]["depth"] = "2"
    assert len(list(differences(before, today, Names()))) == 1


def test_names_are_followed_and_everything_that_is_gone_needs_a_line(small: Tables) -> None:
    text = "name,top1_pp,top1_pp_sum\nB,0.75,0\n"
    today = {"tables/all.csv": read_table(text)}
    names = Names(
        paths={"models.csv": "all.csv"},
        columns={"share": "top1_pp", "models": {"model": "name"}},
        labels={"b": "B"},
        columns_dropped={"models.csv: layers": "said elsewhere"},
        dropped={"models.csv: a": "trivial"},
        rounded={"share_sum: 0.583333333 -> 0": "an example"},
    )
    assert list(differences(small, today, names)) == []
    assert names.idle() == []


def test_a_line_that_meets_nothing_is_idle(small: Tables) -> None:
    names = Names(columns={"no": "x", "models": {"such": "y"}}, remeasured={"z": "why"})
    assert list(differences(small, small, names)) == []
    assert names.idle() == ["[remeasured] z", "[columns] no", "[columns.models] such"]
