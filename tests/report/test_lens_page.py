"""The interactive page in a real browser: offline, hovered, clicked, another prompt picked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lensbench.report.build import build_report
from tests.harness.browser import centre, chromium, foreign, point_at, wait_for
from tests.harness.lens_records import Settings, write_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """report.html of two models, open in a fresh browser."""
    run = tmp_path_factory.mktemp("runs") / "two"
    write_run(run, Settings(n_layers=6), Settings(model="tiny-b", n_layers=4, seed=3))
    build_report([run])
    with chromium(tmp_path_factory.mktemp("profile")) as chrome:
        chrome.get((run / "report.html").as_uri())
        yield chrome


def cell(page: Any, heat_map: int, layer: int, position: int) -> tuple[int, int]:
    """Where a cell's centre is on the screen."""
    return centre(page, f"heatmap-{heat_map}", position, layer)


def top_token(page: Any, heat_map: int, layer: int, position: int) -> str:
    """The token that the embedded data holds for a cell of the chosen prompt."""
    return page.execute_script(
        "const m = data.models[arguments[0]];"
        "const p = m.prompts[document.getElementById('prompt-picker').value];"
        "return m.words[p.top[arguments[1]][arguments[2]][0]];",
        heat_map,
        layer,
        position,
    )


def test_hover_shows_the_top_tokens_and_numbers(page: Any) -> None:
    for heat_map, layer, position in [(0, 2, 1), (1, 3, 2)]:
        token = top_token(page, heat_map, layer, position)
        point_at(page, cell(page, heat_map, layer, position))
        text = wait_for(
            page,
            "const box = document.getElementById('heatmap-' + arguments[0]);"
            "const t = box.querySelector('.hoverlayer .hovertext');"
            "return t && t.textContent.includes(arguments[1]) && t.textContent;",
            heat_map,
            token,
        )
        assert f"layer {layer}" in text
        for words in ("entropy (bits)", "KL(model ‖ lens) (bits)", "rank of the answer"):
            assert words in text


def test_click_keeps_a_cell_as_text(page: Any) -> None:
    token = top_token(page, 0, 4, 2)
    point_at(page, cell(page, 0, 4, 2), click=True)
    text = wait_for(page, "return document.getElementById('cell-0').innerText;")
    assert "layer 4" in text
    assert token in text
    assert page.execute_script("return document.querySelectorAll('#cell-0 script').length") == 0


def test_another_prompt_changes_the_plots(page: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    shape = "return document.getElementById('heatmap-1').data[0].z.map((row) => row.length);"
    texts = "return JSON.stringify(document.getElementById('heatmap-0').data[0].text);"
    curve = "return JSON.stringify(document.getElementById('prompt-curves').data[0].y);"
    before = page.execute_script(texts), page.execute_script(curve)
    assert page.execute_script(shape) == [5] * 5  # layers x positions
    picker = Select(page.find_element(By.ID, "prompt-picker"))
    assert len(picker.options) == 32
    picker.select_by_value("r3-07")  # recorded at its last position only
    wait_for(page, texts.replace("return ", "return arguments[0] !== "), before[0])
    assert page.execute_script(shape) == [1] * 5
    assert page.execute_script(curve) != before[1]


def test_colour_can_be_another_measure(page: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    Select(page.find_element(By.ID, "colour-picker")).select_by_value("kl_bits")
    assert wait_for(page, "return document.getElementById('heatmap-0').data[0].reversescale;")


def test_the_page_loads_nothing_from_elsewhere(page: Any) -> None:
    assert foreign(page) == []


def test_no_token_became_markup(page: Any) -> None:
    assert page.execute_script("return document.scripts.length;") == 3
    assert page.execute_script("return document.querySelectorAll('#heatmap-0 b').length;") == 0
