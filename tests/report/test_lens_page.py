"""The page of lens records in a real browser: hovered, clicked, searched, linked to, on a phone."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from tests.harness.browser import centre, point_at, wait_for
from tests.harness.reports import lens_records_in

pytestmark = pytest.mark.browser
HEAT_MAPS = 6  # the number of the first model's chart, after the comparison and the texts
ENTROPY, RANK1 = 8, 11  # of the curves


@pytest.fixture
def page(chrome: Any, built: Path) -> Any:
    """report.html of two models, opened anew."""
    size = {"width": 1400, "height": 4500, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chrome.get("about:blank")
    chrome.get((built / "report.html").as_uri())
    return chrome


def select(page: Any, css: str) -> Any:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    return Select(page.find_element(By.CSS_SELECTOR, css))


def shown(page: Any) -> str:
    """The id of the prompt that is picked."""
    return page.execute_script("return pickers[0].keys[pickers[0].select.value];")


def trace(page: Any, chart: int, part: str) -> Any:
    return page.execute_script(f"return document.getElementById('chart-{chart}').data[0].{part};")


def curve(page: Any) -> Any:
    """The picked prompt's entropies by the first model."""
    return page.execute_script(
        f"return document.getElementById('chart-{ENTROPY}')"
        ".data.find((t) => t.mode === 'lines+markers').y;"
    )


def top_token(page: Any, model: int, layer: int, position: int) -> str:
    """The token that the embedded data holds for a cell of the chosen prompt."""
    return page.execute_script(
        "const view = data.charts[arguments[0]].views[pickers[0].select.value + ',0'];"
        "return data.words[data.cells[view.cells].top[arguments[1]][arguments[2]][0]];",
        HEAT_MAPS + model,
        layer,
        position,
    )


def test_hover_shows_the_top_tokens_and_numbers(page: Any) -> None:
    for model, layer, position in [(0, 2, 1), (1, 3, 2)]:
        token = top_token(page, model, layer, position)
        point_at(page, centre(page, f"chart-{HEAT_MAPS + model}", position, layer))
        text = wait_for(
            page,
            "const box = document.getElementById('chart-' + arguments[0]);"
            "const t = box.querySelector('.hoverlayer .hovertext');"
            "return t && t.textContent.includes(arguments[1]) && t.textContent;",
            HEAT_MAPS + model,
            token,
        )
        assert f"layer {layer}" in text
        for words in ("entropy (bits)", "KL(model ‖ lens) (bits)", "rank of the answer"):
            assert words in text


def test_click_keeps_a_cell_as_text(page: Any) -> None:
    token = top_token(page, 0, 4, 2)
    point_at(page, centre(page, f"chart-{HEAT_MAPS}", 2, 4), click=True)
    text = wait_for(page, f"return document.getElementById('list-{HEAT_MAPS}').innerText;")
    assert "layer 4" in text
    assert token in text
    assert page.execute_script("return document.querySelectorAll('.list script').length") == 0
    assert page.execute_script("return document.scripts.length;") == 3  # no token became markup
    bold = f"return document.querySelectorAll('#chart-{HEAT_MAPS} b').length;"
    assert page.execute_script(bold) == 0


def test_another_prompt_or_measure_changes_the_plots(page: Any) -> None:
    second = HEAT_MAPS + 1
    tokens, before = trace(page, HEAT_MAPS, "text"), curve(page)
    assert [len(row) for row in trace(page, second, "z")] == [5] * 7  # layers x positions
    picker = select(page, "#picker-0")
    assert len(picker.options) == 32
    place = page.execute_script("return data.pickers[0].keys.indexOf('r3-07');")
    picker.select_by_value(str(place))
    assert trace(page, HEAT_MAPS, "text") != tokens
    assert [len(row) for row in trace(page, second, "z")] == [1] * 7  # its last position only
    assert curve(page) != before
    select(page, "#picker-1").select_by_visible_text("KL(model ‖ lens) (bits)")
    assert trace(page, HEAT_MAPS, "reversescale")


def test_a_link_points_at_a_prompt_and_its_filters(page: Any, built: Path) -> None:
    select(page, "select[data-facet=relation]").select_by_visible_text("relation 2")
    select(page, "#picker-0").select_by_index(3)
    picked, address = shown(page), page.current_url
    assert picked.startswith("r2-")
    assert picked in address
    page.get("about:blank")
    page.get(address)
    assert shown(page) == picked
    assert len(select(page, "#picker-0").options) == 8
    page.get((built / "report.html").as_uri())
    assert shown(page) != picked
    assert len(select(page, "#picker-0").options) == 32
    page.execute_script("location.hash = 'prompt=r1-05';")  # followed without loading it again
    wait_for(page, "return pickers[0].keys[pickers[0].select.value] === 'r1-05';")


@pytest.mark.slow
def test_prompts_are_searched_and_filtered(page: Any, run: Path, built: Path) -> None:
    from selenium.webdriver.common.by import By

    name, first = next(iter(lens_records_in([run]).items()))
    field = page.find_element(By.CSS_SELECTOR, "input[type=search]")
    field.send_keys("REL1 of s")
    options = [option.text for option in select(page, "#picker-0").options]
    assert options
    assert all("rel1 of Sub" in text for text in options)
    count = page.find_element(By.ID, "count-0").text
    assert count == f"{len(options)} of 32 prompts"
    field.clear()
    field.send_keys("zz")
    assert page.find_element(By.ID, "count-0").text == "0 of 32 prompts"
    page.get("about:blank")
    page.get((built / "report.html").as_uri())
    facet = f"top-1 of {name}"
    select(page, f"select[data-facet='{facet}']").select_by_visible_text("not correct")
    keys = page.execute_script(
        "return [...pickers[0].select.options].map((o) => pickers[0].keys[o.value]);"
    )
    marks = first.milestones.drop_duplicates("prompt_id").set_index("prompt_id")
    wrong = marks.index[~marks["top1_correct"].astype(bool)]
    assert set(keys) == set(wrong) & set(first.base_prompts.index)


def test_a_click_on_a_curve_lists_its_prompts(page: Any, run: Path) -> None:
    """The mean's point at a layer: every prompt with its own value there, the largest first."""
    first = next(iter(lens_records_in([run]).values()))
    mean = page.execute_script(f"return document.getElementById('chart-{ENTROPY}').data[1].y[4];")
    point_at(page, centre(page, f"chart-{ENTROPY}", 0.5, mean), click=True)
    rows = wait_for(
        page,
        f"const rows = [...document.querySelectorAll('#list-{ENTROPY} tr')];"
        "return rows.length && rows.map((r) => [r.cells[0].textContent, r.cells[1].textContent]);",
    )
    lens = first.table("lens")
    at = lens[(lens["lens"] == "final") & lens["is_last"] & (lens["layer"] == 4)]
    at = at.set_index("prompt_id")["entropy_bits"]
    expected = at[first.base_prompts.index].sort_values(ascending=False)
    assert [float(value) for value, _ in rows] == pytest.approx(expected.tolist(), rel=1e-3)
    page.execute_script(f"document.querySelectorAll('#list-{ENTROPY} button')[4].click();")
    picked = shown(page)
    assert at[picked] == pytest.approx(float(rows[4][0]), rel=1e-3)
    assert picked in page.current_url


def test_tables_and_pictures_can_be_taken_along(page: Any, built: Path, tmp_path: Path) -> None:
    allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    names = page.execute_script("return data.tables.map((table) => table.name);")
    assert {"models", "tiny-b-coverage"} <= set(names)
    page.execute_script(f"saveTable(data.tables[{names.index('models')}]);")
    got = taken(page, tmp_path / "models.csv")
    assert got == (built / "tables" / "models.csv").read_bytes()
    assert list(csv.DictReader(io.StringIO(got.decode())))
    for kind, start in (("svg", b"<svg"), ("png", b"\x89PNG")):
        page.execute_script(f"saveImage({ENTROPY}, '{kind}');")
        assert taken(page, tmp_path / f"chart-{ENTROPY + 1}.{kind}").startswith(start)


def taken(page: Any, path: Path) -> bytes:
    """A file once the browser has it."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 20).until(lambda _: path.exists() and path.stat().st_size > 0)
    return path.read_bytes()
