"""A page for every kind of record in a real browser: what is picked is drawn, as recorded."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensbench.records.open import open_record
from lensbench.records.record import Record
from lensbench.report.diff import tables as diff
from lensbench.report.embeddings.section import page as encoder_page
from lensbench.report.kit.page import Page, chart, page_html
from lensbench.report.kit.views import Axis, Line, Lines, Map
from lensbench.report.placement import section as placement
from lensbench.stats.estimates import Estimate
from tests.harness.browser import centre, foreign, point_at, wait_for
from tests.harness.pages import MARKUP, rows

pytestmark = pytest.mark.browser


def opened(chrome: Any, folder: Path, width: int = 1400, fragment: str = "") -> None:
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 700}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chrome.get("about:blank")
    chrome.get((folder / "report.html").as_uri() + fragment)


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


@pytest.mark.slow
def test_similarity_is_drawn_as_picked(chrome: Any, built: Path, correlation: Record) -> None:
    """One pick after the other, on one page."""
    opened(chrome, built / "correlation")
    labels = {"span": "prompt", "measure": "cosine", "variant": "without_massive"}
    require_similarity(drawn(chrome, 0), correlation, labels)
    pick(chrome, 1, 0)
    require_similarity(drawn(chrome, 0), correlation, labels | {"measure": "pearson"})
    for picker, option in {0: 1, 1: 2, 2: 0}.items():
        pick(chrome, picker, option)
    labels = {"span": "generated", "measure": "cka", "variant": "as_is"}
    require_similarity(drawn(chrome, 0), correlation, labels)


def require_similarity(
    traces: list[dict[str, Any]], correlation: Record, labels: dict[str, str]
) -> None:
    """Curves and the first one's ribbon are those of the record, cut where the measure ends."""
    least = 0 if labels["measure"] == "cka" else -1
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
    assert ribbon["y"][: len(own)] == near(own["low"].clip(least, 1))
    assert ribbon["y"][len(own) : -1] == near(own["high"][::-1].clip(least, 1))


@pytest.mark.slow
def test_changes_mark_what_is_significant_and_chosen(
    chrome: Any, built: Path, correlation: Record
) -> None:
    opened(chrome, built / "correlation")
    for condition in (0, 1):
        pick(chrome, 3, condition)
        require_changes(chrome, correlation, condition)


def require_changes(chrome: Any, correlation: Record, condition: int) -> None:
    """The changes of a condition are those of the record, the significant and the chosen ones."""
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


def test_what_has_no_test_says_so(chrome: Any, built: Path, correlation: Record) -> None:
    opened(chrome, built / "correlation")
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


def test_maps_are_those_of_the_record(chrome: Any, built: Path, correlation: Record) -> None:
    opened(chrome, built / "correlation")
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


@pytest.mark.parametrize("shape", [(2, 4), pytest.param((30, 9), marks=pytest.mark.slow)])
def test_places_of_a_map_are_counted_in_whole_numbers(
    chrome: Any, tmp_path: Path, shape: tuple[int, int]
) -> None:
    view = Map(Axis("head"), Axis("block"), np.zeros(shape), (0.0, 1.0), "induction")
    made = page_html(Page("heads", "", (), [chart("heads", "", (), lambda: view)]))
    (tmp_path / "report.html").write_bytes(made)
    opened(chrome, tmp_path)
    beside = [
        chrome.execute_script(
            f"return [...document.querySelectorAll('.{axis}tick text')].map((t) => t.textContent);"
        )
        for axis in "yx"
    ]
    for ticks, n in zip(beside, shape, strict=True):
        assert len(ticks) > 1
        assert {*ticks} <= {str(k) for k in range(n)}


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("n", [12, 50])
def test_curves_of_many_models_have_room(chrome: Any, tmp_path: Path, n: int, width: int) -> None:
    """Their names and intervals are said where one points; a legend of fifty left 60 pixels."""
    own = [Estimate(value, value - 0.1, value + 0.1, 9, 3) for value in (0.1, 0.5, 0.9)]
    lines = [Line(f"model-{i:02d}", own) for i in range(n)]
    view = Lines(Axis("depth"), Axis("share"), {0.0: "0", 0.5: "1", 1.0: "2"}, lines)
    made = page_html(Page("models", "", (), [chart("share", "", (), lambda: view)]))
    (tmp_path / "report.html").write_bytes(made)
    opened(chrome, tmp_path, width)
    traces = drawn(chrome, 0)
    assert len(by_name(traces)) == n
    hovered = by_name(traces)["model-03"]["hovertext"][1]
    assert "model-03" in hovered and "0.4" in hovered and "0.6" in hovered
    script = "return document.querySelector('.nsewdrag').getBoundingClientRect().height;"
    assert chrome.execute_script(script) > 100
    has_legend = chrome.execute_script("return document.querySelectorAll('.legendtext').length;")
    ribbons = sum(trace["fill"] == "toself" for trace in traces)
    assert (has_legend, ribbons) == ((n, n) if n == 12 else (0, 0))


def grid(frame: pd.DataFrame) -> np.ndarray:
    half = frame.pivot(index="layer_a", columns="layer_b", values="value")
    return half.combine_first(half.T).to_numpy()


def test_a_single_prompt_is_drawn_from_its_cells(chrome: Any, built: Path, moved: Record) -> None:
    opened(chrome, built / "diff")
    for place, item in ((1, "p0"), (4, "p3"), (8, "p7")):
        pick(chrome, 1, place)
        require_cells(chrome, moved, item)


def require_cells(chrome: Any, moved: Record, item: str) -> None:
    """Every quantity is drawn as the record has it of this prompt."""
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


def test_hovering_shows_layer_value_and_interval(chrome: Any, built: Path, moved: Record) -> None:
    opened(chrome, built / "diff")
    mean = diff.tables(moved)["curves"].row(layer=2)["entropy_a_bits"]
    point_at(chrome, centre(chrome, "chart-0", 0.5, mean.value))
    text = wait_for(
        chrome,
        "const t = document.querySelector('#chart-0 .hoverlayer .hovertext');"
        "return t && t.textContent;",
    )
    assert text.startswith("tiny|alayer 2, 50.0%")
    interval = "" if mean.low is None else f" [{mean.low:.4g}, {mean.high:.4g}]"
    assert f"{mean.value:.4g}{interval}" in text


def test_dots_are_drawn_with_their_intervals(chrome: Any, built: Path, placements: Record) -> None:
    opened(chrome, built / "placement")
    pick(chrome, 1, 1)
    frame = placement.tables(placements.table("placement"))["differences"].frame
    leads = frame.loc[frame["placement"] == "all blocks", "difference_bits"]
    main, _ = drawn(chrome, 1)
    assert main["x"] == near(pd.Series([e.value for e in leads]))
    for end, part in (("array", "high"), ("arrayminus", "low")):
        reach = [abs(getattr(e, part) - e.value) for e in leads]
        assert main["error_x"][end] == pytest.approx(reach, abs=1e-3)
    losses, repetitions = drawn(chrome, 0)
    assert len(losses["x"]) == 4
    assert len(repetitions["x"]) == 6


def test_no_text_is_obeyed_in_a_browser(chrome: Any, built: Path) -> None:
    for kind in ("placement", "correlation", "diff"):
        opened(chrome, built / kind)
        assert chrome.execute_script("return document.scripts.length;") == 3
        assert chrome.execute_script("return document.querySelectorAll('b').length;") == 0
        assert MARKUP in chrome.execute_script("return document.body.textContent;")
        if kind == "correlation":
            legend = "return document.querySelector('#chart-0 .legend').textContent;"
            assert f"{MARKUP} (condition)" in chrome.execute_script(legend)
    options = chrome.execute_script(
        "return [...document.getElementById('picker-1').options].map((o) => o.textContent);"
    )
    assert f"{MARKUP} → yes" in options


def test_a_dark_page_is_drawn_dark(chrome: Any, built: Path) -> None:
    opened(chrome, built / "diff")
    colour = "return document.getElementById('chart-0').layout.font.color;"
    light = chrome.execute_script(colour)
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert wait_for(chrome, f"{colour.rstrip(';')} !== arguments[0];", light)
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


# The folder of a page -> a record that it is of.
PAGES = {"": "tiny-b"} | {
    name: name for name in ("train", "eval", "base", "trace", "correlation", "diff", "placement")
}


OFTEN = ("", "trace", "correlation", "diff")  # every kind of chart among them


@pytest.mark.parametrize(
    "place",
    [place if place in OFTEN else pytest.param(place, marks=pytest.mark.slow) for place in PAGES],
)
def test_it_fits_a_phone_says_where_it_is_from_and_loads_nothing(
    chrome: Any, run: Path, built: Path, place: str
) -> None:
    opened(chrome, built / place, width=390)
    assert chrome.title.startswith("lensbench: ")
    text = chrome.execute_script("return document.querySelector('.facts').textContent;")
    assert open_record(run / PAGES[place]).manifest["created"] in text
    assert "lensbench 0.1.0" in text
    assert chrome.execute_script("return data.tables.length;") >= 1
    link = chrome.execute_script("return document.querySelector('p a').getAttribute('href');")
    assert (built / place / link).is_file()
    assert foreign(chrome) == []
    assert chrome.execute_script("return document.documentElement.scrollWidth;") == 390
    right = chrome.execute_script(
        "return [...document.querySelectorAll('section, select, input, .texts')]"
        ".map((e) => e.getBoundingClientRect().right);"
    )
    assert max(right) <= 390
    ends = chrome.execute_script(
        "return [...document.querySelectorAll('.charts section')]"
        ".map((s) => s.getBoundingClientRect()).map((at) => [at.top, at.bottom]);"
    )
    assert all(below[0] >= above[1] - 1 for above, below in pairwise(ends))


def listed(chrome: Any, chart: int) -> list[list[str]]:
    """The rows under a chart: value and item."""
    return wait_for(
        chrome,
        f"const rows = [...document.querySelectorAll('#list-{chart} tr')];"
        "return rows.length && rows.map((r) => [...r.cells].map((c) => c.textContent));",
    )


def texts(chrome: Any, chart: int) -> dict[str, str]:
    """A table of texts: what it is -> the text."""
    return dict(
        chrome.execute_script(
            f"return [...document.querySelectorAll('#chart-{chart} tr')]"
            ".map((r) => [...r.cells].map((c) => c.textContent));"
        )
    )


def test_a_click_on_a_responses_mean_lists_the_prompts(chrome: Any, run: Path, built: Path) -> None:
    opened(chrome, built / "base")
    rows = open_record(run / "base").table("responses").set_index("prompt_id")
    mean = chrome.execute_script("return document.getElementById('chart-1').data[1].y[1];")
    point_at(chrome, centre(chrome, "chart-1", 1, mean), click=True)
    expected = sorted((v[1] for v in rows["entropy_bits"] if len(v) > 1), reverse=True)
    found = [float(value) for value, _ in listed(chrome, 1)]
    assert found == pytest.approx([float(value) for value in expected], rel=1e-3)
    chrome.execute_script("document.querySelector('#list-1 button').click();")
    picked = chrome.execute_script("return pickers[0].keys[pickers[0].select.value];")
    assert texts(chrome, 0)["response"] == rows.at[picked, "response"]


def test_an_example_is_read_side_by_side(chrome: Any, run: Path, built: Path) -> None:
    rows = open_record(run / "eval").table("evaluation")
    opened(chrome, built / "eval", fragment="#example=p07&metric=rouge1")
    own = rows[rows["prompt_id"] == "p07"].set_index("condition")
    shown = texts(chrome, 2)
    assert shown["reference"] == own["reference"].iloc[0]
    assert shown["adapter"] == own.at["adapter", "response"]
    drawn = chrome.execute_script("return document.getElementById('chart-0').data[0].x;")
    assert drawn == pytest.approx(own["rouge1"].tolist(), rel=1e-3)


def test_a_click_on_a_dot_lists_the_examples(chrome: Any, run: Path, built: Path) -> None:
    rows = open_record(run / "eval").table("evaluation")
    opened(chrome, built / "eval", fragment="#metric=rouge1")
    at = chrome.execute_script("return document.getElementById('chart-0').data[0].x[1];")
    point_at(chrome, centre(chrome, "chart-0", at, 1), click=True)
    own = rows[rows["condition"] == "adapter"]["rouge1"].sort_values(ascending=False)
    found = [float(value) for value, _ in listed(chrome, 0)]
    assert found == pytest.approx(own.tolist(), rel=1e-3)


def test_losses_are_drawn_in_bits(chrome: Any, run: Path, built: Path) -> None:
    opened(chrome, built / "train")
    log = open_record(run / "train").table("training").sort_values("step")
    loss = log.dropna(subset=["loss_nats"])["loss_nats"]
    drawn = chrome.execute_script("return document.getElementById('chart-0').data[0].y;")
    assert drawn == pytest.approx((loss * 1.442695).tolist(), rel=1e-3)


@pytest.mark.slow
def test_what_a_link_names_and_the_page_has_not_is_said(chrome: Any, built: Path) -> None:
    said = "return document.getElementById('unknown').textContent;"
    opened(chrome, built / "diff", fragment="#prompt=p4")
    assert chrome.execute_script(said) == ""
    opened(chrome, built / "diff", fragment="#prompt=gone<b>&prompt.relation=r9&quantity=kl")
    assert "prompt “gone<b>”" in chrome.execute_script(said)
    assert "relation “r9”" in chrome.execute_script(said)
    assert "quantity" not in chrome.execute_script(said)
    pick(chrome, 0, 0)
    assert chrome.execute_script(said) == ""


def test_a_click_where_no_prompts_stand_behind_gives_the_number(chrome: Any, built: Path) -> None:
    opened(chrome, built)
    at = chrome.execute_script(
        "const { x, y } = document.getElementById('chart-0').data[0];"
        "const k = x.findIndex((each) => each !== null); return [x[k], y[k]];"
    )
    point_at(chrome, centre(chrome, "chart-0", *at), click=True)
    text = wait_for(chrome, "return document.getElementById('list-0').textContent;")
    name = chrome.execute_script("return data.frames[data.charts[0].views[''].frame].names[0];")
    assert text.startswith(f"{name}: {float(f'{100 * at[0]:.4g}'):g} %")


def test_a_phone_keeps_the_n_of_a_long_name(chrome: Any, built: Path) -> None:
    opened(chrome, built, width=390)
    names = chrome.execute_script("return data.frames[data.charts[0].views[''].frame].names;")
    shown = chrome.execute_script(
        "return document.getElementById('chart-0').layout.yaxis.ticktext;"
    )
    assert all("(n = " in name for name in names)
    for name, text in zip(names, shown, strict=True):
        assert text.endswith(name[name.index("(n = ") :])


TEXTS = ["dog", MARKUP, "It's a beautiful sunny day", "日本"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an encoder without ratings; one of its texts is a zero vector."""
    values = np.random.default_rng(0).uniform(-1, 1, (4, 4))
    cells = (values + values.T) / 2
    cells[3], cells[:, 3] = np.nan, np.nan
    rows = [
        {"a": a, "b": b, "cosine": cells[i, j]}
        for i, a in enumerate(TEXTS)
        for j, b in enumerate(TEXTS)
    ]
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "report.html").write_bytes(page_html(encoder_page("m", pd.DataFrame(rows), None)))
    pd.DataFrame(rows).to_csv(folder / "grid.csv")
    return folder


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_cosines_of_texts_are_a_map_with_their_names(
    chrome: Any, encoder: Path, width: int, scheme: str
) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    opened(chrome, encoder, width)
    (trace,) = drawn(chrome, 0)
    expected = pd.read_csv(encoder / "grid.csv")["cosine"].to_numpy().reshape(4, 4)
    found = np.array(trace["z"], dtype=float)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.isnan(found).sum() == 7
    script = "return [...document.querySelectorAll('.ytick text')].map((t) => t.textContent);"
    shown = chrome.execute_script(script)
    longest = 28 if width > 700 else 9
    cut = [text if len(text) <= longest else f"{text[: longest - 1]}…" for text in TEXTS]
    assert sorted(shown) == sorted(cut)
    assert trace["hovertext"][0][1].startswith(f"dog, {ESCAPED}<br>")
    assert chrome.execute_script("return document.querySelectorAll('b').length;") == 0
    assert chrome.execute_script("return document.documentElement.scrollWidth;") <= width
    colour = chrome.execute_script("return document.getElementById('chart-0').layout.font.color;")
    assert colour == {"light": "#1f2328", "dark": "#e6edf3"}[scheme]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert foreign(chrome) == []


def test_a_page_that_is_scrolled_has_no_chart_that_is(chrome: Any, encoder: Path) -> None:
    """A scroll bar that comes when charts are drawn takes none of the width that they have."""
    chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chrome.set_window_size(1000, 500)
    chrome.get("about:blank")
    chrome.get((encoder / "report.html").as_uri())
    drawn(chrome, 0)
    tall, bar, wider = chrome.execute_script(
        "const page = document.documentElement, box = document.getElementById('chart-0');"
        "return [page.scrollHeight > page.clientHeight, innerWidth - page.clientWidth,"
        " box.scrollWidth - box.clientWidth];"
    )
    assert tall and bar > 0  # else there is nothing to see
    assert wider <= 0
