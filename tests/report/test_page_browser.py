"""The pages in a real browser: what is picked is drawn, and it is what the record says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensbench.records.record import Record
from lensbench.report.diff import tables as diff
from lensbench.report.placement import section as placement
from tests.harness.browser import centre, chromium, foreign, point_at, wait_for
from tests.harness.pages import MARKUP, rows

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def opened(chrome: Any, record: Record) -> None:
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


@pytest.mark.parametrize(
    ("picks", "labels"),
    [
        ({}, {"span": "prompt", "measure": "cosine", "variant": "without_massive"}),
        ({0: 1, 1: 2, 2: 0}, {"span": "generated", "measure": "cka", "variant": "as_is"}),
        ({1: 0}, {"span": "prompt", "measure": "pearson", "variant": "without_massive"}),
    ],
)
def test_similarity_is_drawn_as_picked(
    chrome: Any, correlation: Record, picks: dict[int, int], labels: dict[str, str]
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


@pytest.mark.parametrize("condition", [0, 1])
def test_changes_mark_what_is_significant_and_chosen(
    chrome: Any, correlation: Record, condition: int
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


def test_what_has_no_test_says_so(chrome: Any, correlation: Record) -> None:
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


def test_maps_are_those_of_the_record(chrome: Any, correlation: Record) -> None:
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


@pytest.mark.parametrize(("place", "item"), [(1, "p0"), (4, "p3"), (8, "p7")])
def test_a_single_prompt_is_drawn_from_its_cells(
    chrome: Any, moved: Record, place: int, item: str
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


def test_hovering_shows_layer_value_and_interval(chrome: Any, moved: Record) -> None:
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


def test_dots_are_drawn_with_their_intervals(chrome: Any, placements: Record) -> None:
    opened(chrome, placements)
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


def test_no_text_is_obeyed_in_a_browser(
    chrome: Any, correlation: Record, moved: Record, placements: Record
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


def test_a_dark_page_is_drawn_dark(chrome: Any, moved: Record) -> None:
    opened(chrome, moved)
    colour = "return document.getElementById('chart-0').layout.font.color;"
    light = chrome.execute_script(colour)
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert wait_for(chrome, f"{colour.rstrip(';')} !== arguments[0];", light)
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
