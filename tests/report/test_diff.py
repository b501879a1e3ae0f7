"""The report of a diff: hand-worked numbers, the verdict's rule, and files that can be trusted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensbench.records.record import Record
from lensbench.records.schema.diff import DIFF_PROMPTS
from lensbench.records.schema.lens import MILESTONES
from lensbench.report.build import build_report
from lensbench.report.diff.section import changes_drawn, headline_of
from lensbench.report.diff.tables import tables
from lensbench.report.diff.verdict import answer, diverged, overview
from lensbench.report.diff.views import Moves
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.table import Table
from lensbench.stats.estimates import Estimate
from tests.harness.diff_records import A, B, cell, cells_of, make, many, prompt, side
from tests.harness.lens_records import NASTY
from tests.harness.reports import said


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Two relations of two prompts, two layers: every number below is worked by hand."""
    relation = {"p1": "r1", "p2": "r1", "p3": "r2", "p4": "r2"}
    kl = {"r1": (0.0, 0.05, 0.2), "r2": (0.0, 0.3, 0.4)}
    more = {"r1": (0.0, 1.0, 0.0), "r2": (0.0, 3.0, 0.0)}
    cells = [
        cell(
            item,
            group,
            layer,
            2,
            entropy_bits_a=5.0 - layer,
            entropy_bits_b=5.0 - layer + more[group][layer],
            answer_prob_a=0.5,
            answer_prob_b=0.5 - 0.1 * layer * (item == "p3"),
            top1_same=item != "p4",
            lens_kl_bits=kl[group][layer],
        )
        for item, group in relation.items()
        for layer in range(3)
    ]
    prompts = [
        prompt("p1", "r1", 0.5, None),
        prompt("p2", "r1", 0.5, 1.0),
        prompt("p3", "r2", 0.5, 0.5, prompt=NASTY[1]),
        prompt("p4", "r2", 0.5, 1.0),
    ]
    facts = {"b": side(B, 2, adapter="x", adapter_update_norms=[0.0, 2.5], dtype="bfloat16")}
    return make(tmp_path_factory.mktemp("diff") / "small", cells, prompts, 2, model=facts)


@pytest.fixture(scope="module")
def made(small: Record) -> dict[str, Table]:
    return tables(small)


def parts(estimate: Estimate) -> tuple[Any, ...]:
    return (estimate.value, estimate.low, estimate.high)


def test_diffs_stand_side_by_side(small: Record, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(small.folder, tmp_path / name, ignore=shutil.ignore_patterns("tables"))
    build_report([tmp_path])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Diffs side by side" in text
    frame = pd.read_csv(tmp_path / "tables" / "diffs.csv")
    assert len(frame) == 2
    row = frame.iloc[0]
    assert (row["a"], row["b"]) == (A, B)
    assert row["lens_kl_bits_mean"] == pytest.approx((0.2 + 0.4) / 2)  # at the last layer
    assert row["top1_same_share"] == 0.75  # all but p4
    assert row["top1_accuracy_change_pp"] == -0.25  # p1 is no longer answered
    assert row["rank1_first_shift_pp"] == 0.5  # median of .5, 0 and .5
    assert pd.isna(row["diverges_from_depth"])  # two relations of two prompts tell no interval
    assert row["verdict_changes"] == answer(tables(small))[0]


def test_changes_by_hand(made: dict[str, Table]) -> None:
    """Two relations of two prompts have no interval of a mean, and of a share one that says so."""
    row = made["changes"].row(layer=1)
    assert parts(row["entropy_bits_change"]) == (2.0, None, None)
    assert row["lens_kl_bits_mean"].value == pytest.approx(0.175)
    assert row["answer_prob_change"].value == pytest.approx(-0.025)
    assert row["kl_bits_change"].value == 0.0
    assert row["kl_bits_change"].reason == "2 relations: no interval of a mean covers 90 %"
    share, low, high = parts(row["top1_same_share"])
    assert (share, low < 0.01, high > 0.99) == (0.75, True, True)
    assert row["entropy_bits_change_p"] == 0.01
    assert row["depth"] == 0.5


def test_update_norms_stand_at_the_layer_that_leaves_the_block(made: dict[str, Table]) -> None:
    norms = made["changes"].frame["b_update_norm"]
    assert norms.isna().tolist() == [True, False, False]
    assert norms.tolist()[1:] == [0.0, 2.5]


def test_answered_by_hand(made: dict[str, Table]) -> None:
    (row,) = made["accuracy"].frame.to_dict("records")
    # All right of two relations: as of two prompts, each as likely wrong as sqrt(.025) right.
    assert parts(row["a_accuracy"]) == pytest.approx((1.0, 0.025**0.5, 1.0))
    assert row["b_accuracy"].value == 0.75
    assert row["change_pp"].value == -0.25
    assert row["change_pp"].low < 0 < row["change_pp"].high
    assert (row["both"], row["only_a"], row["only_b"], row["n_prompts"]) == (3, 1, 0, 4)


def test_emergence_by_hand(made: dict[str, Table]) -> None:
    """p1 is not answered by b; the others move by .5, 0 and .5: the median is .5."""
    row = made["verdict"].row(emergence="first at rank 1")
    assert row["a_median_depth"].value == 0.5
    assert row["b_median_depth"].value == 1.0
    assert parts(row["shift_pp"]) == (0.5, None, None)
    assert row["shift_pp"].reason == "2 relations: no interval of a median covers 90 %"
    assert row["shift_pp"].n == 3
    milestone = made["milestones"].row(milestone="rank1_first")
    assert milestone["n_prompts"] == 3
    assert milestone["same_depth_share"].value == pytest.approx(1 / 3)


def test_a_milestone_reached_on_one_side_only_is_counted_apart(tmp_path: Path) -> None:
    prompts = [
        prompt("p1", "r1", 0.5, 0.5, kl_1bit_depth_a=None),
        prompt("p2", "r2", 0.5, 0.5, kl_1bit_depth_b=None),
    ]
    cells = [cell(p, r, k, 2) for p, r in (("p1", "r1"), ("p2", "r2")) for k in range(3)]
    found = tables(make(tmp_path, cells, prompts, 2))["milestones"].row(milestone="kl_1bit")
    assert (found["n_prompts"], found["only_a"], found["only_b"]) == (0, 1, 1)
    assert found["shift_pp"].reason == "no prompt has both"


def test_without_an_interval_it_is_not_said_where_the_lenses_part(
    small: Record, made: dict[str, Table]
) -> None:
    found = diverged(small, made["changes"].frame)
    assert (found["layer"], found["depth"]) == (None, None)
    assert found["reason"] == "2 relations: no interval of a mean covers 90 %"


@pytest.mark.parametrize(
    ("lows", "expected"),
    [
        ([0.2, 0.2, 0.2], 0),
        ([0.0, 0.2, 0.2], 1),
        ([0.2, 0.0, 0.2], 2),
        ([0.2, 0.2, 0.1], None),
        ([0.2, 0.2, None], None),
    ],
)
def test_parting_needs_all_layers_after(
    lows: list[float | None], expected: int | None, small: Record
) -> None:
    points = [Estimate(0.5, low, 1.0 if low is not None else None, 4, 2, "why") for low in lows]
    frame = pd.DataFrame({"layer": [0, 1, 2], "depth": [0, 0.5, 1], "lens_kl_bits_mean": points})
    assert diverged(small, frame)["layer"] == expected


ABOVE = ("outside", "the whole interval lies above 85 %")
BELOW = ("outside", "the whole interval lies below 75 %")
INSIDE = ("inside", "x")
OPEN = ("cannot tell", "x")


@pytest.mark.parametrize(
    ("first", "stays", "expected"),
    [
        ((INSIDE, INSIDE), (ABOVE, ABOVE), "no"),
        ((INSIDE, ABOVE), (ABOVE, ABOVE), "yes"),
        ((BELOW, ABOVE), (ABOVE, ABOVE), "yes"),
        ((OPEN, OPEN), (ABOVE, ABOVE), "no"),
        ((OPEN, OPEN), (OPEN, OPEN), "cannot tell"),
        ((OPEN, INSIDE), (ABOVE, ABOVE), "cannot tell"),
        ((OPEN, INSIDE), (ABOVE, INSIDE), "yes"),
    ],
)
def test_when_a_conclusion_changes(first: Any, stays: Any, expected: str) -> None:
    rows = [
        {
            "a_verdict": a[0],
            "a_reason": a[1],
            "b_verdict": b[0],
            "b_reason": b[1],
        }
        for a, b in (first, stays)
    ]
    made = {"verdict": Table("verdict", "", pd.DataFrame(rows))}
    assert answer(made)[0] == expected


@pytest.mark.parametrize(
    ("shift", "expected", "words"),
    [
        (
            0.0,
            "**No**",
            "borne out by both; rank 1 is reached 0.0 pp [0.0, 0.0] of depth later",
        ),
        (0.1, "**Yes**", "borne out by the first and not borne out by the second"),
    ],
)
def test_the_headline_is_the_answer_with_its_numbers(
    shift: float, expected: str, words: str, tmp_path: Path
) -> None:
    prompts = many(shift)
    record = make(tmp_path, cells_of(prompts, 10), prompts, 10)
    text = overview(record, tables(record))
    assert text.startswith("Does the step from tiny|a to tiny|a@8 change the verdict")
    assert expected in text
    assert words in text
    within = "one layer is 10.0 pp: the whole interval lies within it"
    assert within in text  # .1 is exactly one layer of ten
    assert "**" not in headline_of(tmp_path)
    assert "tiny|a@8" in headline_of(tmp_path)


def test_one_relation_has_no_interval_and_says_so(tmp_path: Path) -> None:
    prompts = [prompt(f"p{i}", "r", 0.8, 0.9) for i in range(30)]
    record = make(tmp_path, cells_of(prompts, 10), prompts, 10)
    found = tables(record)
    assert found["changes"].frame["lens_kl_bits_mean"][3].reason == "1 relation: no interval"
    assert answer(found)[0] == "cannot tell"
    assert "1 relation: no interval" in overview(record, found)


def test_what_was_not_compared_is_null_with_its_reason(tmp_path: Path) -> None:
    prompts = many(0.0)
    bare = {"resid_cosine": None, "resid_change": None, "lens_kl_bits": None}
    cells = [c | bare for c in cells_of(prompts, 10)]
    why = "x was run without --keep-residuals"
    record = make(tmp_path, cells, prompts, 10, residuals_reason=why, lenses_reason=why)
    row = tables(record)["changes"].row(layer=5)
    for name in ("resid_cosine", "resid_change_relative", "lens_kl_bits_mean"):
        assert (row[name].value, row[name].reason) == (None, why)
    build_report([tmp_path])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"Residual vectors are not compared: {why}" in text
    assert "do not diverge" in text


def test_relative_depth_is_said(tmp_path: Path) -> None:
    prompts = many(0.0)
    cells = [c | {"layer": None, "top1_same": None} for c in cells_of(prompts, 10)]
    sides = {"a": side(A, 10), "b": side(B, 30)}
    record = make(
        tmp_path, cells, prompts, 10, model=sides, settings={"relative_depth": True},
        residuals_reason="10 and 30 layers", lenses_reason="10 and 30 layers",
    )  # fmt: skip
    build_report([tmp_path])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "10 and 30 layers: they are compared at equal shares of their depth" in text
    assert record.table("diff_cells")["layer"].isna().all()


def test_limitations_name_what_confounds_the_change(small: Record, made: dict[str, Table]) -> None:
    lines = said(small)
    assert "Few prompts: 4" in lines
    assert "Few relations: 2" in lines
    assert "no p is below 0.5" in lines
    assert "float32 against bfloat16" in lines


def test_what_differs_is_listed(made: dict[str, Table]) -> None:
    rows = made["differences"].frame.set_index("fact")
    assert rows.loc["dtype"].tolist() == ["float32", "bfloat16"]
    assert rows.loc["adapter"].tolist() == ["none", "x"]
    assert "weights_sha256" not in rows.index


# --- files


def test_the_update_norm_gets_a_panel_of_its_own(made: dict[str, Table]) -> None:
    frame = made["changes"].frame
    title = b"norm of the adapter's update"
    assert title in to_svg(panels, changes_drawn(Moves(("a", "b"), frame, frame)))
    without = frame.drop(columns="b_update_norm")
    assert title not in to_svg(panels, changes_drawn(Moves(("a", "b"), without, without)))


def test_a_diff_of_nothing_is_reported_all_the_same(tmp_path: Path) -> None:
    """Prompts without any answer: no top-1 is correct, no milestone is reached."""
    prompts = [prompt(f"p{i}", f"r{i % 2}", None, None, answer=None) for i in range(4)]
    cells = [
        c | {"answer_rank_a": None, "answer_rank_b": None, "answer_rank_log2_change": None}
        for c in cells_of(prompts, 2)
    ]
    make(tmp_path, cells, prompts, 2)
    build_report([tmp_path])
    assert "cannot be compared" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_every_milestone_has_a_column_for_either_side() -> None:
    wanted = {f"{m}_{what}_{s}" for m in MILESTONES for what in ("layer", "depth") for s in "ab"}
    assert wanted <= set(DIFF_PROMPTS.names)
