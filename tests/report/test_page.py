"""The page with pickers: what is picked is what is drawn, and it is what the record says."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.offline
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.escape import printable
from lensbench.records.record import Record
from lensbench.report.diff import tables as diff
from lensbench.report.diff.section import diff_page
from lensbench.report.kit import page as engine
from lensbench.report.kit.page import (
    MOST_ITEMS,
    MOST_TABLE_ROWS,
    Chart,
    Facts,
    Picker,
    chart,
    page_html,
)
from lensbench.report.kit.page import significant as rounded
from lensbench.report.kit.table import Table
from lensbench.report.kit.views import Axis, Line, Lines
from lensbench.report.placement import section as placement
from lensbench.report.section import MOST_ITEMS_KEPT, Section
from lensbench.stats.estimates import Estimate
from tests.harness.correlation_records import base, planted, write_trace
from tests.harness.diff_records import cells_of, make, many
from tests.harness.pages import MARKUP, Page, page_in, rows, study, with_page

# --- the mechanism


def test_a_table_with_more_rows_than_a_page_holds_is_cut_and_its_file_named() -> None:
    whole = Table("cells", "Cells", pd.DataFrame({"n": range(MOST_TABLE_ROWS + 1)}), of_items=True)
    full = Table("few", "Few", pd.DataFrame({"n": range(MOST_TABLE_ROWS)}))
    of_other = replace(whole, folder="gpt 2", title="gpt 2: Cells")
    kept = Section("T", {"cells": of_other, "few": full}, "").kept().tables
    given = [whole, full, kept["cells"], kept["few"]]
    text = page_html(engine.Page("T", "T", (), []), Facts(tables=given)).decode()
    held = {one["name"]: inflated(one["packed"]) for one in Page(text).data["tables"]}
    assert held["cells"].splitlines() == ["n", *map(str, range(MOST_TABLE_ROWS))]
    assert held["gpt 2-cells"].splitlines() == ["n", *map(str, range(MOST_ITEMS_KEPT))]
    assert len(held["few"].splitlines()) == 1 + MOST_TABLE_ROWS
    assert (
        'the files beside it have all: <a href="tables/cells.csv">Cells</a> (10,000 of 10,001); '
        '<a href="gpt%202/tables/cells.csv">gpt 2: Cells</a> (1,000 of 10,001).'
    ) in text


def inflated(packed: str) -> str:
    return zlib.decompress(base64.b64decode(packed)).decode()


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_keep_four_digits(value: float) -> None:
    short = rounded(value)
    assert short is not None
    assert math.isclose(short, value, rel_tol=5.001e-4)
    assert len(f"{abs(short):e}".split("e")[0].replace(".", "").rstrip("0")) <= 4


def test_what_is_missing_is_null() -> None:
    assert [rounded(value) for value in (None, math.nan, math.inf, 2.0, 0.123456)] == [
        None, None, None, 2, 0.1235,
    ]  # fmt: skip


def estimate(value: float | None, reason: str | None = None, wide: bool = True) -> Estimate:
    ends = (value - 1, value + 1) if wide and value is not None else (None, None)
    return Estimate(value, *ends, 4, 2, reason)


def drawing(*lines: Line) -> dict[str, Any]:
    """The one view of a page with these lines over three places."""
    places = {0.0: "layer 0", 1.0: "layer 1", 2.0: "layer 2"}
    made = chart("H", "S", (), lambda: Lines(Axis("x"), Axis("y"), places, lines))
    return Page(of_charts((), made)).view(0)


def of_charts(pickers: tuple[Picker, ...], made: Chart, text: str = "T") -> str:
    """A page of one chart."""
    return page_html(engine.Page(text, text, pickers, [made])).decode()


def test_gaps_are_null_and_each_reason_is_said_once() -> None:
    hole = Line("one", [estimate(1.0), estimate(None, "no prompt"), estimate(3.0)])
    bare = Line("two", [estimate(2.0, "1 relation: no interval", wide=False)] * 3)
    view = drawing(hole, bare)
    assert view["lines"][0] == {"y": [1, None, 3], "low": [0, None, 2], "high": [2, None, 4]}
    assert view["lines"][1] == {"y": [2, 2, 2]}
    assert view["frame"]["note"] == ("one: n/a: no prompt (layer 1). two: 1 relation: no interval.")


def test_a_reason_that_all_share_names_nobody() -> None:
    nothing = [Line(name, [estimate(None, "not kept")] * 3) for name in ("one", "two")]
    assert drawing(*nothing)["frame"] | {"note": ""} == drawing()["frame"] | {"note": ""}
    assert drawing(*nothing)["frame"]["note"] == "n/a: not kept."
    assert drawing(*nothing)["frame"]["kind"] == "nothing"
    untested = Line("one", [estimate(1.0)] * 3, p=[0.5, None, None], p_reasons=[None, "why", "why"])
    assert drawing(untested)["frame"]["note"] == "no p: why (layer 1, layer 2)."
    assert drawing(untested)["lines"][0]["p"] == [0.5, None, None]


def test_a_chart_has_a_view_for_every_combination() -> None:
    pickers = (Picker("P", {"a": "A", "b": "B"}, "b"), Picker("Q", {"x": "X", "y": "Y"}))
    unused = Picker("R", {"r": "R"})
    made = chart(
        "H", "S", pickers, lambda p, q: Lines(
            Axis(p + q), Axis("y"), {0.0: "here"}, [Line("l", [estimate(1.0)])]
        )
    )  # fmt: skip
    text = of_charts((unused, *pickers), made)
    page = Page(text)
    assert page.data["charts"][0]["pickers"] == [1, 2]
    titles = {f"{i},{j}": page.view(0, i, j)["frame"]["x"]["title"] for i in (0, 1) for j in (0, 1)}
    assert titles == {"0,0": "ax", "0,1": "ay", "1,0": "bx", "1,1": "by"}
    assert text.count('<option value="1" selected>B') == 1
    assert text.count('<option value="0" selected>') == 2


def test_views_share_their_frames() -> None:
    picker = Picker("P", {str(i): str(i) for i in range(50)})
    made = chart("H", "S", (picker,), lambda i: Lines(
        Axis("x"), Axis("y"), {0.0: "here"}, [Line("l", [estimate(float(i))])]
    ))  # fmt: skip
    page = Page(of_charts((picker,), made))
    assert len(page.data["frames"]) == 1
    assert [page.view(0, i)["lines"][0]["y"] for i in (0, 49)] == [[0], [49]]


def test_no_text_becomes_markup() -> None:
    picker = Picker(MARKUP, {MARKUP: MARKUP})
    line = Line(MARKUP, [estimate(1.0, MARKUP), estimate(None, MARKUP)])
    places = {0.0: MARKUP, 1.0: MARKUP}
    made = chart(MARKUP, MARKUP, (picker,), lambda _: Lines(
        Axis(MARKUP), Axis(MARKUP), places, [line]
    ))  # fmt: skip
    page = Page(of_charts((picker,), made, MARKUP))
    assert page.tags.count("script") == 3
    assert not set(page.embedded) & set("<>&")
    assert "b" not in page.tags
    assert page.options == [MARKUP]
    assert page.view(0, 0)["frame"]["names"] == [MARKUP]


# --- the three makers, in the page's data

# Columns of the tables "curves" and "changes", in the order of the picker.
CURVES = ("entropy_{}_bits", "kl_{}_bits", "answer_{}_prob", "answer_rank1_{}_share")
CHANGES = (
    "entropy_bits_change",
    "kl_bits_change",
    "answer_prob_change",
    "answer_rank_log2_change",
    "resid_cosine",
    "resid_change_relative",
    "lens_kl_bits_mean",
    "top1_same_share",
)
READINGS = ("entropy_bits", "kl_bits", "answer_rank", "answer_prob")  # of both sides
COMPARED = ("answer_rank_log2_change", "top1_same", "resid_cosine", "resid_change", "lens_kl_bits")


def test_the_first_picks_are_what_chooses_the_blocks(built: Path) -> None:
    text = (built / "correlation" / "report.html").read_text(encoding="utf-8")
    chosen = [part.split("</option>")[0] for part in text.split(" selected>")[1:]]
    assert chosen[:3] == [
        "prompt tokens",
        "cosine of a prompt&#39;s two vectors, mean over prompts",
        "without massive dimensions",
    ]
    assert chosen[3].startswith("&lt;/script&gt;")


def test_without_cosines_the_page_starts_with_pearson(tmp_path: Path) -> None:
    values = base()
    write_trace(tmp_path / "plain", values)
    write_trace(tmp_path / "rag", planted(values, 1))
    runs = (str(tmp_path / "plain"), str(tmp_path / "rag"))
    page = page_in(study(tmp_path, runs=runs, measures=("pearson",)).folder)
    assert "Pearson correlation of the mean vectors" in page.options
    assert not any("cosine" in option for option in page.options)
    assert page.view(1, 0, 0, 1, 0)["frame"]["names"] == ["from the reference"]


def test_a_control_has_no_change_and_the_reference_a_map_only(built: Path) -> None:
    page = page_in(built / "correlation")
    roles = [o for o in page.options if o.endswith(("(condition)", "(control)", "(reference)"))]
    assert [role.split("(")[-1] for role in roles] == [
        "condition)", "condition)", "control)", "reference)",
    ]  # fmt: skip
    assert page.view(1, 0, 1, 1, 2)["frame"]["kind"] == "nothing"
    assert page.view(2, 0, 3, 0)["frame"]["kind"] == "map"
    assert page.view(3, 0, 3, 0)["frame"]["note"] == "The reference itself was picked."


def test_a_prompt_is_shown_with_its_answer_as_text(built: Path, moved: Record) -> None:
    page = page_in(built / "diff")
    shown = [option for option in page.options if "→" in option]
    prompts = moved.table("diff_prompts").fillna({"answer": "no answer"})
    pairs = zip(prompts["prompt"], prompts["answer"], strict=True)
    assert shown == [f"{printable(asked)} → {answer}".strip() for asked, answer in pairs]
    assert "mean over 8 prompts" in page.options


def test_a_prompts_gap_has_its_reason(built: Path) -> None:
    """p2 (the third prompt) has no answer, p3 no KL of a at layer 2."""
    page = page_in(built / "diff")
    assert page.view(0, 2, 3)["frame"]["note"] == "n/a: not recorded for this prompt."
    kl = page.view(0, 1, 4)
    assert [value is None for value in kl["lines"][0]["y"]] == [False, False, True, False, False]
    assert kl["frame"]["note"] == "tiny|a: n/a: not recorded for this prompt (layer 2, 50.0%)."


def test_a_prompts_change_is_not_called_a_mean(built: Path) -> None:
    page = page_in(built / "diff")
    assert page.view(1, 0, 1)["frame"]["names"] == ["this prompt"]
    assert page.view(1, 0, 0)["frame"]["names"] == ["mean change, b minus a, 95 % interval"]


def test_means_are_those_of_the_tables(built: Path, moved: Record) -> None:
    made, page = diff.tables(moved), page_in(built / "diff")
    for quantity, column in enumerate(CURVES):
        for line, side in zip(page.view(0, quantity, 0)["lines"], "ab", strict=True):
            assert_drawn(line, made["curves"].frame[column.format(side)])
    for quantity, column in enumerate(CHANGES):
        (line,) = page.view(1, quantity, 0)["lines"]
        assert_drawn(line, made["changes"].frame[column])
        tested = list(made["changes"].frame.get(f"{column}_p", []))
        assert line.get("p", []) == pytest.approx(tested)


def assert_drawn(line: Mapping[str, Any], points: pd.Series) -> None:
    for name, part in (("y", "value"), ("low", "low"), ("high", "high")):
        expected = [getattr(point, part) for point in points]
        drawn = line.get(name, [None] * len(points))  # few relations have no interval
        for own, wanted in zip(drawn, expected, strict=True):
            assert own == (wanted if wanted is None else pytest.approx(wanted, rel=6e-4))


def test_different_depths_are_named_by_depth(tmp_path: Path) -> None:
    prompts = many(0.0)
    cells = [c | {"layer": None, "top1_same": None} for c in cells_of(prompts, 10)]
    make(tmp_path, cells, prompts, 10, settings={"relative_depth": True})
    page = page_in(with_page(tmp_path).folder)
    assert page.view(0, 0, 0)["frame"]["labels"][0][1] == "depth 10.0%"
    assert page.view(1, 7, 0)["frame"]["note"] == "n/a: the models' layers are at other depths."


def big_diff(n_prompts: int, n_layers: int) -> bytes:
    """The page of a diff of so many prompts, its numbers with all their digits."""
    rng = np.random.default_rng(0)
    ids = [f"p{i:04d}" for i in range(n_prompts)]
    depths = np.arange(n_layers + 1) / n_layers
    index = pd.MultiIndex.from_product([ids, depths], names=["prompt_id", "depth"])
    names = [*(f"{name}_{side}" for name in READINGS for side in "ab"), *COMPARED]
    cells = pd.DataFrame(rng.random((len(index), len(names))), index, names).reset_index()
    prompts = pd.DataFrame({"prompt_id": ids, "prompt": "What " * 20, "answer": "yes"})
    prompts = prompts.assign(relation="r", top1_correct_a=True, top1_correct_b=False)
    curves = [column.format(side) for column in CURVES for side in "ab"]
    made = {}
    for name, columns in (("changes", CHANGES), ("curves", curves)):
        frame = pd.DataFrame({"layer": range(n_layers + 1), "depth": depths})
        for column in columns:
            frame[column] = [estimate(float(value)) for value in rng.random(n_layers + 1)]
        made[name] = Table(name, name, frame)
    return page_html(diff_page(("a", "b"), made, cells, prompts))


def test_a_page_stays_small_and_says_what_it_leaves_out() -> None:
    page = big_diff(MOST_ITEMS + 25, 70)
    assert len(page) - len(plotly.offline.get_plotlyjs()) < 3_000_000
    text = page.decode()
    assert text.count(" → yes") == 300
    assert "300 of 325 prompts can be picked; the mean is over all." in text
    assert "mean over 325 prompts" in text


def test_a_deep_model_has_fewer_prompts_in_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lensbench.report.diff.section.MOST_NUMBERS", 16 * 5 * 7 + 1)
    assert "7 of 20 prompts can be picked" in big_diff(20, 4).decode()
    assert "can be picked" not in big_diff(7, 4).decode()


def test_losses_and_leads_are_those_of_the_record(built: Path, placements: Record) -> None:
    made, page = placement.tables(placements.table("placement")), page_in(built / "placement")
    view = page.view(0, 0)
    assert view["frame"]["names"] == ["base", "suggested", MARKUP, "all blocks"]
    assert view["frame"]["labels"] == ["repetition 1", "repetition 2"]
    for line, loss in zip(view["lines"], made["placements"].frame["loss_bits"], strict=True):
        assert_drawn(line, pd.Series([loss]))
    own = rows(placements, "placement", placement="suggested").query("repetition == 1")
    by_hand = own["reference_nll_bits"].sum() / own["n_reference_tokens"].sum()
    assert view["lines"][1]["small"][1] == pytest.approx(by_hand, rel=6e-4)
    assert "small" not in view["lines"][0]
    for i, name in enumerate((MARKUP, "all blocks")):
        frame = made["differences"].frame
        own = frame[frame["placement"] == name]
        lines = page.view(1, i)["lines"]
        assert len(lines) == 3
        for line, lead in zip(lines, own["difference_bits"], strict=True):
            assert_drawn(line, pd.Series([lead]))
