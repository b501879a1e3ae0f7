"""A page for every kind of record, of one make: in a browser, on a phone, with its prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lensbench.records.record import Record
from tests.harness import second_records as fixture
from tests.harness.browser import centre, chromium, foreign, point_at, wait_for
from tests.harness.pages import with_page

pytestmark = pytest.mark.browser
KINDS = ("training", "evaluation", "inference", "trace", "correlation", "diff", "placement")


@pytest.fixture(scope="module")
def records(
    tmp_path_factory: pytest.TempPathFactory,
    correlation: Record,
    moved: Record,
    placements: Record,
) -> dict[str, Record]:
    """One record of each kind, its page beside it; lens records have tests of their own."""
    folder = tmp_path_factory.mktemp("kinds")
    made: dict[str, Path] = {
        "training": fixture.write_training(folder / "training"),
        "evaluation": fixture.write_evaluation(folder / "evaluation"),
        "inference": fixture.write(
            folder / "inference", "inference", {"responses": fixture.responses(12)}
        ),
        "trace": fixture.write_trace(folder / "trace"),
    }
    found = {kind: with_page(path) for kind, path in made.items()}
    return found | {"correlation": correlation, "diff": moved, "placement": placements}


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def opened(chrome: Any, record: Record, width: int = 1400, fragment: str = "") -> None:
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 700}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chrome.get("about:blank")
    chrome.get((record.folder / "report.html").as_uri() + fragment)


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


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_where_it_is_from_and_loads_nothing(
    chrome: Any, records: dict[str, Record], kind: str
) -> None:
    opened(chrome, records[kind])
    text = chrome.execute_script("return document.querySelector('.facts').textContent;")
    assert records[kind].manifest["created"] in text
    assert "lensbench 0.1.0" in text
    assert chrome.execute_script("return data.tables.length;") >= 1
    assert foreign(chrome) == []


@pytest.mark.parametrize("kind", KINDS)
def test_it_fits_a_phone(chrome: Any, records: dict[str, Record], kind: str) -> None:
    opened(chrome, records[kind], width=390)
    assert chrome.execute_script("return document.documentElement.scrollWidth;") == 390
    ends = chrome.execute_script(
        "return [...document.querySelectorAll('.main-svg, select, input, .texts')]"
        ".map((e) => e.getBoundingClientRect().right);"
    )
    assert max(ends) <= 390


def test_a_click_on_a_responses_mean_lists_the_prompts(
    chrome: Any, records: dict[str, Record]
) -> None:
    opened(chrome, records["inference"])
    rows = records["inference"].table("responses").set_index("prompt_id")
    mean = chrome.execute_script("return document.getElementById('chart-1').data[1].y[1];")
    point_at(chrome, centre(chrome, "chart-1", 1, mean), click=True)
    expected = sorted((v[1] for v in rows["entropy_bits"] if len(v) > 1), reverse=True)
    found = [float(value) for value, _ in listed(chrome, 1)]
    assert found == pytest.approx([float(value) for value in expected], rel=1e-3)
    chrome.execute_script("document.querySelector('#list-1 button').click();")
    picked = chrome.execute_script("return pickers[0].keys[pickers[0].select.value];")
    assert texts(chrome, 0)["response"] == rows.at[picked, "response"]


def test_an_example_is_read_side_by_side(chrome: Any, records: dict[str, Record]) -> None:
    rows = records["evaluation"].table("evaluation")
    opened(chrome, records["evaluation"], fragment="#example=p07&metric=rouge1")
    own = rows[rows["prompt_id"] == "p07"].set_index("condition")
    shown = texts(chrome, 2)
    assert shown["reference"] == own["reference"].iloc[0]
    assert shown["adapter"] == own.at["adapter", "response"]
    drawn = chrome.execute_script("return document.getElementById('chart-0').data[0].x;")
    assert drawn == pytest.approx(own["rouge1"].tolist(), rel=1e-3)


def test_a_click_on_a_dot_lists_the_examples(chrome: Any, records: dict[str, Record]) -> None:
    rows = records["evaluation"].table("evaluation")
    opened(chrome, records["evaluation"], fragment="#metric=rouge1")
    at = chrome.execute_script("return document.getElementById('chart-0').data[0].x[1];")
    point_at(chrome, centre(chrome, "chart-0", at, 1), click=True)
    own = rows[rows["condition"] == "adapter"]["rouge1"].sort_values(ascending=False)
    found = [float(value) for value, _ in listed(chrome, 0)]
    assert found == pytest.approx(own.tolist(), rel=1e-3)


def test_losses_are_drawn_in_bits(chrome: Any, records: dict[str, Record]) -> None:
    opened(chrome, records["training"])
    log = records["training"].table("training").sort_values("step")
    loss = log.dropna(subset=["loss_nats"])["loss_nats"]
    drawn = chrome.execute_script("return document.getElementById('chart-0').data[0].y;")
    assert drawn == pytest.approx((loss * 1.442695).tolist(), rel=1e-3)
