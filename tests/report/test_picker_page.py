"""The page with pickers: what is picked is what is drawn, and it is what the record says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.offline
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.compare.correlation.record import correlate
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.escape import printable
from lensbench.files import write_bytes
from lensbench.report.build import build_report
from lensbench.report.diff import section as diff
from lensbench.report.diff.page import MOST_PROMPTS, diff_page
from lensbench.report.kit.picker_page import Axis, Line, Picker, chart, lines_view, picker_page
from lensbench.report.kit.picker_page import significant as rounded
from lensbench.report.kit.tables import Table
from lensbench.report.load import SecondRecord, load_second
from lensbench.report.placement import section as placement
from lensbench.report.sections import second_files
from lensbench.stats.bootstrap import Estimate
from tests.harness import second_records as second_fixture
from tests.harness.browser import centre, chromium, foreign, point_at, wait_for
from tests.harness.correlation_records import base, noisy, planted, write_trace
from tests.harness.diff_records import cells_of, make, many, prompt
from tests.harness.lens_records import NASTY

MARKUP = "</script><script>document.body.remove()</script><b>&amp;"


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its options, its embedded data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        (self.embedded,) = [text for text in self.texts["script"] if text.startswith("{")]
        self.data: dict[str, Any] = json.loads(self.embedded)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.texts[self.tags[-1]][-1] += data

    def view(self, chart: int, *place: int) -> dict[str, Any]:
        """A chart's view with its frame."""
        view = self.data["charts"][chart]["views"][",".join(map(str, place))]
        return {**view, "frame": self.data["frames"][view["frame"]]}

    @property
    def options(self) -> list[str]:
        return [text.strip() for text in self.texts["option"]]


def page_in(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


# --- the mechanism


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
    made = chart("H", "S", (), lambda: lines_view(Axis("x"), Axis("y"), places, lines))
    return Page(picker_page("T", "S", (), [made]).decode()).view(0)


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
        "H", "S", pickers, lambda p, q: lines_view(
            Axis(p + q), Axis("y"), {0.0: "here"}, [Line("l", [estimate(1.0)])]
        )
    )  # fmt: skip
    text = picker_page("T", "S", (unused, *pickers), [made]).decode()
    page = Page(text)
    assert page.data["charts"][0]["pickers"] == [1, 2]
    titles = {f"{i},{j}": page.view(0, i, j)["frame"]["x"]["title"] for i in (0, 1) for j in (0, 1)}
    assert titles == {"0,0": "ax", "0,1": "ay", "1,0": "bx", "1,1": "by"}
    assert text.count('<option value="1" selected>B') == 1
    assert text.count('<option value="0" selected>') == 2


def test_views_share_their_frames() -> None:
    picker = Picker("P", {str(i): str(i) for i in range(50)})
    made = chart("H", "S", (picker,), lambda i: lines_view(
        Axis("x"), Axis("y"), {0.0: "here"}, [Line("l", [estimate(float(i))])]
    ))  # fmt: skip
    page = Page(picker_page("T", "S", (picker,), [made]).decode())
    assert len(page.data["frames"]) == 1
    assert [page.view(0, i)["lines"][0]["y"] for i in (0, 49)] == [[0], [49]]


def test_no_text_becomes_markup() -> None:
    picker = Picker(MARKUP, {MARKUP: MARKUP})
    line = Line(MARKUP, [estimate(1.0, MARKUP), estimate(None, MARKUP)])
    places = {0.0: MARKUP, 1.0: MARKUP}
    made = chart(MARKUP, MARKUP, (picker,), lambda _: lines_view(
        Axis(MARKUP), Axis(MARKUP), places, [line]
    ))  # fmt: skip
    page = Page(picker_page(MARKUP, MARKUP, (picker,), [made]).decode())
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


@pytest.fixture(scope="module")
def correlation(tmp_path_factory: pytest.TempPathFactory) -> SecondRecord:
    """Layers 5-7 change under one condition; its name is markup."""
    folder, values = tmp_path_factory.mktemp("correlation"), base()
    write_trace(folder / "plain", values)
    write_trace(folder / "rag", planted(values, 1), generated=noisy(values, 3))
    write_trace(folder / "far", noisy(values, 4, 1.0))
    write_trace(folder / "other", noisy(values, 2), generated=noisy(values, 5))
    return study(
        folder,
        runs=(str(folder / "plain"), f"{MARKUP}={folder / 'rag'}", str(folder / "far")),
        controls=(str(folder / "other"),),
        measures=("pearson", "cosine", "cka"),
        n_blocks=3,
    )


def study(folder: Path, **spec: Any) -> SecondRecord:
    correlate(CorrelationSpec(out=folder / "out", resamples=200, **spec))
    return with_page(folder / "out")


def with_page(folder: Path) -> SecondRecord:
    """The record in a folder, with its report as far as the page: figures take seconds."""
    (record,) = load_second([folder])
    for name, data in second_files([record], []):
        write_bytes(folder / name, data)
        if name == "report.html":
            break
    return record


def rows(record: SecondRecord, table: str, **labels: str) -> pd.DataFrame:
    frame = record.tables[table]
    for column, label in labels.items():
        frame = frame[frame[column] == label]
    return frame


def test_the_first_picks_are_what_chooses_the_blocks(correlation: SecondRecord) -> None:
    text = (correlation.folder / "report.html").read_text(encoding="utf-8")
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


def test_a_control_has_no_change_and_the_reference_a_map_only(correlation: SecondRecord) -> None:
    page = page_in(correlation.folder)
    roles = [o for o in page.options if o.endswith(("(condition)", "(control)", "(reference)"))]
    assert [role.split("(")[-1] for role in roles] == [
        "condition)", "condition)", "control)", "reference)",
    ]  # fmt: skip
    assert page.view(1, 0, 1, 1, 2)["frame"]["kind"] == "nothing"
    assert page.view(2, 0, 3, 0)["frame"]["kind"] == "map"
    assert page.view(3, 0, 3, 0)["frame"]["note"] == "The reference itself was picked."


def test_a_record_without_rows_has_no_page(tmp_path: Path) -> None:
    second_fixture.write(tmp_path, "correlation", {})
    assert not [path for path in build_report([tmp_path]) if path.suffix == ".html"]
    assert "report.html" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_every_report_names_its_page(
    correlation: SecondRecord, moved: SecondRecord, placements: SecondRecord
) -> None:
    for record in (correlation, moved, placements):
        text = (record.folder / "report.md").read_text(encoding="utf-8")
        assert "`report.html`" in text


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> SecondRecord:
    """A diff of eight prompts over five depths, every number another; one has no answer."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("diff") / "record"
    prompts = [
        prompt(f"p{i}", f"r{i % 4}", 0.5, 0.75, prompt=text)
        for i, text in enumerate([*NASTY[:7], MARKUP])
    ]
    prompts[2]["answer"] = None
    cells = [varied(item, rng) for item in cells_of(prompts, 4)]
    make(folder, cells, prompts, 4)
    return with_page(folder)


def varied(item: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The cell with numbers of its own; p2 has no answer, p3 misses one reading."""
    ranks = rng.integers(1, 5000, 2)
    item |= {f"{name}_{s}": rng.random() for name in ("entropy_bits", "kl_bits") for s in "ab"}
    item |= {f"answer_prob_{s}": rng.random() for s in "ab"}
    item |= {f"answer_rank_{s}": float(rank) for s, rank in zip("ab", ranks, strict=True)}
    item |= {"answer_rank_log2_change": float(np.log2(ranks[1] / ranks[0]))}
    item |= {name: rng.random() for name in ("resid_cosine", "resid_change", "lens_kl_bits")}
    if item["prompt_id"] == "p2":
        item |= {f"answer_{name}_{s}": None for name in ("rank", "prob") for s in "ab"}
        item |= {"answer_rank_log2_change": None}
    if (item["prompt_id"], item["layer"]) == ("p3", 2):
        item |= {"kl_bits_a": None}
    return item


def test_a_prompt_is_shown_with_its_answer_as_text(moved: SecondRecord) -> None:
    page = page_in(moved.folder)
    shown = [option for option in page.options if "→" in option]
    prompts = moved.tables["diff_prompts"].fillna({"answer": "no answer"})
    pairs = zip(prompts["prompt"], prompts["answer"], strict=True)
    assert shown == [f"{printable(asked)} → {answer}".strip() for asked, answer in pairs]
    assert "mean over 8 prompts" in page.options


def test_a_prompts_gap_has_its_reason(moved: SecondRecord) -> None:
    """p2 (the third prompt) has no answer, p3 no KL of a at layer 2."""
    page = page_in(moved.folder)
    assert page.view(0, 2, 3)["frame"]["note"] == "n/a: not recorded for this prompt."
    kl = page.view(0, 1, 4)
    assert [value is None for value in kl["lines"][0]["y"]] == [False, False, True, False, False]
    assert kl["frame"]["note"] == "tiny|a: n/a: not recorded for this prompt (layer 2, 50.0%)."


def test_means_are_those_of_the_tables(moved: SecondRecord) -> None:
    made, page = diff.tables(moved), page_in(moved.folder)
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
        assert line[name] == pytest.approx(expected, rel=6e-4)


def test_different_depths_are_named_by_depth(tmp_path: Path) -> None:
    prompts = many(0.0)
    cells = [c | {"layer": None, "top1_same": None} for c in cells_of(prompts, 10)]
    make(tmp_path, cells, prompts, 10, settings={"relative_depth": True})
    page = page_in(with_page(tmp_path).folder)
    assert page.view(0, 0, 0)["frame"]["labels"][1] == "depth 10.0%"
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
    curves = [column.format(side) for column in CURVES for side in "ab"]
    made = {}
    for name, columns in (("changes", CHANGES), ("curves", curves)):
        frame = pd.DataFrame({"layer": range(n_layers + 1), "depth": depths})
        for column in columns:
            frame[column] = [estimate(float(value)) for value in rng.random(n_layers + 1)]
        made[name] = Table(name, name, frame)
    return diff_page(("a", "b"), made, cells, prompts)


def test_a_page_stays_small_and_says_what_it_leaves_out() -> None:
    page = big_diff(MOST_PROMPTS + 25, 70)
    assert len(page) - len(plotly.offline.get_plotlyjs()) < 3_000_000
    text = page.decode()
    assert text.count(" → yes") == 300
    assert "300 of 325 prompts can be picked; the mean is over all." in text
    assert "mean over 325 prompts" in text


def test_a_deep_model_has_fewer_prompts_in_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lensbench.report.diff.page.MOST_NUMBERS", 16 * 5 * 7 + 1)
    assert "7 of 20 prompts can be picked" in big_diff(20, 4).decode()
    assert "can be picked" not in big_diff(7, 4).decode()


@pytest.fixture(scope="module")
def placements(tmp_path_factory: pytest.TempPathFactory) -> SecondRecord:
    """Three placements, two repetitions, and the base; the suggested block is a little better."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("placement") / "record"
    made = [
        {
            "model": "m", "placement": name, "blocks": [1, 2], "rank": 4, "prompt_id": f"p{i}",
            "repetition": repetition, "group": None, "n_reference_tokens": 10 + i,
            "reference_nll_bits": 20 + rng.random() - (name == "suggested"),
        }
        for name in ("base", "suggested", MARKUP, "all blocks")
        for repetition in ((None,) if name == "base" else (0, 1))
        for i in range(30)
    ]  # fmt: skip
    settings = {"n_trainable": 1000, "repetitions": 2, "n_test": 30}
    second_fixture.write(folder, "placement", {"placement": made}, settings=settings)
    return with_page(folder)


def test_losses_and_leads_are_those_of_the_record(placements: SecondRecord) -> None:
    made, page = placement.tables(placements), page_in(placements.folder)
    view = page.view(0)
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


# --- in a browser


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def opened(chrome: Any, record: SecondRecord) -> None:
    chrome.get((record.folder / "report.html").as_uri())


def pick(chrome: Any, picker: int, option: int) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    Select(chrome.find_element(By.ID, f"picker-{picker}")).select_by_index(option)


def drawn(chrome: Any, chart: int) -> list[dict[str, Any]]:
    """The traces that Plotly holds."""
    kept = ["x", "y", "z", "name", "mode", "fill", "line", "marker", "error_x", "hovertext"]
    return chrome.execute_script(
        "const [box, kept] = [document.getElementById(arguments[0]), arguments[1]];"
        "return (box.data || []).map((t) => Object.fromEntries(kept.map((k) => [k, t[k]])));",
        f"chart-{chart}",
        kept,
    )


def by_name(traces: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in traces if trace["mode"] == "lines+markers"}


def note(chrome: Any, chart: int) -> str:
    return chrome.execute_script(f"return document.getElementById('note-{chart}').textContent;")


def near(expected: pd.Series | np.ndarray) -> Any:
    return pytest.approx(list(expected), rel=6e-4, abs=1e-9)


ESCAPED = MARKUP.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("picks", "labels"),
    [
        ({}, {"span": "prompt", "measure": "cosine", "variant": "without_massive"}),
        ({0: 1, 1: 2, 2: 0}, {"span": "generated", "measure": "cka", "variant": "as_is"}),
        ({1: 0}, {"span": "prompt", "measure": "pearson", "variant": "without_massive"}),
    ],
)
def test_similarity_is_drawn_as_picked(
    chrome: Any, correlation: SecondRecord, picks: dict[int, int], labels: dict[str, str]
) -> None:
    opened(chrome, correlation)
    for picker, option in picks.items():
        pick(chrome, picker, option)
    traces = drawn(chrome, 0)
    found = by_name(traces)
    assert list(found) == [f"{ESCAPED} (condition)", "far (condition)", "other (control)"]
    for name, trace in found.items():
        condition = MARKUP if name.startswith("&lt;") else name.split(" ")[0]
        own = rows(correlation, "similarity", condition=condition, **labels)
        assert trace["x"] == own["layer"].tolist()
        assert trace["y"] == near(own["value"])
        assert trace["line"]["dash"] == ("dot" if condition == "other" else "solid")
    own = rows(correlation, "similarity", condition=MARKUP, **labels)
    ribbon = traces[0]
    assert ribbon["fill"] == "toself"
    assert ribbon["y"][: len(own)] == near(own["low"])
    assert ribbon["y"][len(own) : -1] == near(own["high"][::-1])


@pytest.mark.browser
@pytest.mark.parametrize("condition", [0, 1])
def test_changes_mark_what_is_significant_and_chosen(
    chrome: Any, correlation: SecondRecord, condition: int
) -> None:
    opened(chrome, correlation)
    pick(chrome, 3, condition)
    labels = {"span": "prompt", "measure": "cosine", "variant": "without_massive"}
    labels["condition"] = (MARKUP, "far")[condition]
    own = rows(correlation, "layer_ranking", **labels).sort_values("layer")
    traces = drawn(chrome, 1)
    assert by_name(traces)["above other"]["y"] == near(own["change"])
    firm = own[own["p_adjusted"] < 0.05]
    assert set(firm["layer"]) >= {5, 6, 7}
    (dots,) = [trace for trace in traces if trace["mode"] == "markers"]
    assert dots["x"] == firm["layer"].tolist()
    assert dots["y"] == near(firm["change"])
    (choice,) = rows(correlation, "layer_choice", **labels).to_dict("records")
    shape = chrome.execute_script("return document.getElementById('chart-1').layout.shapes[0];")
    assert shape["x0"] == choice["first_block"] + 1 - 0.5
    assert shape["x1"] == choice["last_block"] + 1 + 0.5


@pytest.mark.browser
def test_what_has_no_test_says_so(chrome: Any, correlation: SecondRecord) -> None:
    opened(chrome, correlation)
    assert note(chrome, 1) == ""
    pick(chrome, 1, 2)  # cka
    assert note(chrome, 1) == "no p: tested on the measures pearson and cosine only."
    assert [t for t in drawn(chrome, 1) if t["mode"] == "markers"] == []
    pick(chrome, 1, 0)  # pearson
    pick(chrome, 2, 2)  # centred
    assert "centring over the conditions removes" in note(chrome, 0)
    assert drawn(chrome, 0) == []
    pick(chrome, 2, 0)
    assert note(chrome, 0) == ""
    assert len(by_name(drawn(chrome, 0))) == 3


@pytest.mark.browser
def test_maps_are_those_of_the_record(chrome: Any, correlation: SecondRecord) -> None:
    opened(chrome, correlation)
    pick(chrome, 3, 1)  # far
    pick(chrome, 4, 1)  # cka as it is
    labels = {"span": "prompt", "measure": "cka", "variant": "as_is"}
    grids = {
        name: grid(rows(correlation, "layer_map", condition=name, **labels))
        for name in ("plain", "far")
    }
    for place, expected in ((2, grids["far"]), (3, grids["far"] - grids["plain"])):
        (trace,) = drawn(chrome, place)
        np.testing.assert_allclose(np.array(trace["z"], float), expected, atol=2e-4)
    pick(chrome, 4, 0)  # pearson
    assert drawn(chrome, 2)[0]["z"] != grids["far"].tolist()
    assert np.abs(np.array(drawn(chrome, 2)[0]["z"], float) - grids["far"]).max() > 0.01


def grid(frame: pd.DataFrame) -> np.ndarray:
    half = frame.pivot(index="layer_a", columns="layer_b", values="value")
    return half.combine_first(half.T).to_numpy()


@pytest.mark.browser
@pytest.mark.parametrize(("place", "item"), [(1, "p0"), (4, "p3"), (8, "p7")])
def test_a_single_prompt_is_drawn_from_its_cells(
    chrome: Any, moved: SecondRecord, place: int, item: str
) -> None:
    opened(chrome, moved)
    pick(chrome, 1, place)
    own = rows(moved, "diff_cells", prompt_id=item).sort_values("layer")
    readings: list[Callable[[str], pd.Series]] = [
        lambda s: own[f"entropy_bits_{s}"],
        lambda s: own[f"kl_bits_{s}"],
        lambda s: own[f"answer_prob_{s}"],
        lambda s: np.log2(own[f"answer_rank_{s}"]),
    ]
    for quantity, reading in enumerate(readings):
        pick(chrome, 0, quantity)
        a, b = by_name(drawn(chrome, 0)).values()
        assert known(a["y"]) == near(reading("a").dropna())
        assert known(b["y"]) == near(reading("b"))
        assert a["x"] == [0, 0.25, 0.5, 0.75, 1]
        (change,) = drawn(chrome, 1)  # a single prompt has neither ribbon nor dots
        assert known(change["y"]) == near((reading("b") - reading("a")).dropna())
    for quantity, column in ((4, "resid_cosine"), (5, "resid_change"), (6, "lens_kl_bits")):
        pick(chrome, 0, quantity)
        assert drawn(chrome, 0) == []
        assert drawn(chrome, 1)[0]["y"] == near(own[column])


def known(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


@pytest.mark.browser
def test_hovering_shows_layer_value_and_interval(chrome: Any, moved: SecondRecord) -> None:
    opened(chrome, moved)
    mean = diff.tables(moved)["curves"].row(layer=2)["entropy_a_bits"]
    point_at(chrome, centre(chrome, "chart-0", 0.5, mean.value))
    text = wait_for(
        chrome,
        "const t = document.querySelector('#chart-0 .hoverlayer .hovertext');"
        "return t && t.textContent;",
    )
    assert text.startswith("tiny|alayer 2, 50.0%")
    assert f"{mean.value:.4g} [{mean.low:.4g}, {mean.high:.4g}]" in text


@pytest.mark.browser
def test_dots_are_drawn_with_their_intervals(chrome: Any, placements: SecondRecord) -> None:
    opened(chrome, placements)
    pick(chrome, 0, 1)
    frame = placement.tables(placements)["differences"].frame
    leads = frame.loc[frame["placement"] == "all blocks", "difference_bits"]
    main, _ = drawn(chrome, 1)
    assert main["x"] == near(pd.Series([e.value for e in leads]))
    for end, part in (("array", "high"), ("arrayminus", "low")):
        reach = [abs(getattr(e, part) - e.value) for e in leads]
        assert main["error_x"][end] == pytest.approx(reach, abs=1e-3)
    losses, repetitions = drawn(chrome, 0)
    assert len(losses["x"]) == 4
    assert len(repetitions["x"]) == 6


@pytest.mark.browser
def test_no_text_is_obeyed_in_a_browser(
    chrome: Any, correlation: SecondRecord, moved: SecondRecord, placements: SecondRecord
) -> None:
    for record in (correlation, moved, placements):
        opened(chrome, record)
        assert chrome.title.startswith("lensbench: ")
        assert chrome.execute_script("return document.scripts.length;") == 3
        assert chrome.execute_script("return document.querySelectorAll('b').length;") == 0
        assert MARKUP in chrome.execute_script("return document.body.textContent;")
        assert foreign(chrome) == []
    opened(chrome, correlation)
    legend = chrome.execute_script("return document.querySelector('#chart-0 .legend').textContent;")
    assert f"{MARKUP} (condition)" in legend
    opened(chrome, moved)
    options = chrome.execute_script(
        "return [...document.getElementById('picker-1').options].map((o) => o.textContent);"
    )
    assert f"{MARKUP} → yes" in options


@pytest.mark.browser
def test_a_dark_page_is_drawn_dark(chrome: Any, moved: SecondRecord) -> None:
    opened(chrome, moved)
    colour = "return document.getElementById('chart-0').layout.font.color;"
    light = chrome.execute_script(colour)
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert wait_for(chrome, f"{colour.rstrip(';')} !== arguments[0];", light)
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
