"""The page of one text in a real browser: what it computes, shows and obeys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from lensbench.report.walk.numbers import Walk
from lensbench.walkthrough.result import walk
from tests.harness.browser import foreign, wait_for
from tests.harness.pages import MARKUP
from tests.harness.tiny import Case

pytestmark = pytest.mark.browser
TEXT = f"The capital of {MARKUP} is"
STEPS = "pieces embedding positions attention writes stream lens logits probabilities draw path"


# A rotary model with soft caps, one without, and one with learned positions.
NAMES = ["gemma2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "gpt2"))]
Pages = Callable[[str], tuple[Walk, Path]]


@pytest.fixture(scope="module")
def pages(tiny_case: Callable[[str], Case], tmp_path_factory: pytest.TempPathFactory) -> Pages:
    @cache
    def get(name: str) -> tuple[Walk, Path]:
        result = walk(tiny_case(name).model, TEXT)
        return result.numbers, result.save(tmp_path_factory.mktemp("walk") / "walk.html")

    return get


@pytest.fixture
def page(chrome: Any, pages: Pages) -> tuple[Any, Walk]:
    numbers, path = pages("gemma2")
    opened(chrome, path)
    return chrome, numbers


def opened(chrome: Any, path: Path, width: int = 1200, fragment: str = "") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    if chrome.current_url.split("#")[0] == path.as_uri() and not fragment:
        chrome.execute_script("set(START);")
        return
    chrome.get("about:blank")
    chrome.get(path.as_uri() + fragment)
    wait_for(chrome, "return document.body.dataset.ready;")


def text(chrome: Any, css: str) -> str:
    return chrome.execute_script(f"return document.querySelector({css!r}).textContent;")


def slide(chrome: Any, control: str, value: float) -> None:
    """As a hand does: the value, and the event that goes with it."""
    chrome.execute_script(
        "const it = document.getElementById(arguments[0]); it.value = arguments[1];"
        "it.dispatchEvent(new Event('input', {bubbles: true}));",
        control,
        value,
    )


def warped(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """What transformers makes of the logits, in float64."""
    scores = TemperatureLogitsWarper(float(temperature))(None, torch.tensor(logits).double()[None])
    if top_p < 1:
        scores = TopPLogitsWarper(float(top_p))(None, scores)
    return scores[0].softmax(-1).numpy()


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1, 0.9), (0.35, 0.5), (2, 1), (0.05, 0.05), (1.6, 0.97)]
)
def test_sliders_give_what_transformers_gives(
    page: tuple[Any, Walk], temperature: float, top_p: float
) -> None:
    chrome, numbers = page
    slide(chrome, "temperature", temperature)
    slide(chrome, "top-p", top_p)
    expected = warped(numbers.logits, temperature, top_p)
    found = np.zeros(len(expected))
    ids, probs = chrome.execute_script(
        "return [[...order], [...current.probs].map((p, i) => i < current.kept ? p / current.mass"
        " : 0)];"
    )
    found[ids] = probs
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)
    n_kept = int((expected > 0).sum()) if top_p < 1 else len(expected)
    assert text(chrome, "#kept").split()[0] == f"{n_kept:,}"
    plain = softmax(numbers.logits.astype(float) / temperature)
    mass = plain[expected > 0].sum()
    assert float(text(chrome, "#mass").split()[0]) / 100 == pytest.approx(mass, rel=1e-3)
    shown = chrome.execute_script(
        "return [...document.querySelectorAll('#drawing-probabilities .value')]"
        ".map((e) => e.textContent.split(' → '));"
    )
    before, after = shown[0]
    best = int(np.argmax(expected))
    assert percent(before) == pytest.approx(plain[best], rel=6e-3)
    assert percent(after) == pytest.approx(expected[best], rel=6e-3)


def percent(shown: str) -> float:
    return float(shown.split()[0]) / 100


def test_the_drawn_token_is_the_one_that_u_falls_on(page: tuple[Any, Walk]) -> None:
    chrome, numbers = page
    slide(chrome, "temperature", 2)
    slide(chrome, "top-p", 1)
    probs = warped(numbers.logits, 2, 1)
    order = np.argsort(-numbers.logits, kind="stable")
    ends = np.cumsum(probs[order])
    said = set()
    for seed in range(12):
        assert chrome.execute_script("return state.seed;") == seed
        u, start, end = (float(text(chrome, css)) for css in ("#u", "#start", "#end"))
        place = int(np.searchsorted(ends, u, side="right"))
        assert (start, end) == pytest.approx((ends[place] - probs[order[place]], ends[place]))
        token = chrome.execute_script("return askedToken();")
        assert token == order[place]
        assert text(chrome, "#said") == chrome.execute_script("return words[arguments[0]];", token)
        said.add(u)
        chrome.execute_script("document.getElementById('again').click();")
    assert len(said) == 12
    draws = chrome.execute_script("return Array.from({length: 20000}, (_, i) => uniform(i));")
    shares = np.histogram(draws, bins=10, range=(0, 1))[0] / 20000
    np.testing.assert_allclose(shares, 0.1, atol=0.012)  # five standard errors


@pytest.mark.parametrize("name", NAMES)
def test_every_part_sums_to_the_models_own_logit(chrome: Any, pages: Pages, name: str) -> None:
    numbers, path = pages(name)
    opened(chrome, path)
    for token in map(int, np.argsort(-numbers.logits)[[0, 3]]):
        chrome.execute_script("set({asked: arguments[0]});", token)
        parts = chrome.execute_script(
            "return [...document.querySelectorAll('#drawing-path tbody tr')]"
            ".map((r) => [...r.cells].map((c) => c.textContent));"
        )
        assert len(parts) == 2 * 3 + 3  # embedding, attention and MLP of 3 blocks, biases, rounding
        z = sum(float(part[1]) for part in parts)
        assert float(text(chrome, "#sum")) == pytest.approx(z, abs=1e-3)
        cap = numbers.architecture.soft_cap
        own = z if cap is None else cap * np.tanh(z / cap)
        assert own == pytest.approx(numbers.logits[token], abs=2e-3)
        assert float(text(chrome, "#own")) == pytest.approx(numbers.logits[token], abs=1e-4)


def test_weights_on_the_page_are_the_softmax_of_the_scores(page: tuple[Any, Walk]) -> None:
    chrome, numbers = page
    n = len(numbers.tokens)
    cells = np.tril_indices(n)
    for block, head in ((0, 0), (2, 3)):
        scores = np.full((n, n), -np.inf)
        scores[cells] = numbers.attention.scores[block, head]
        expected = (softmax(scores, -1) * numbers.attention.sums[block, head][:, None])[cells]
        found = chrome.execute_script(
            "return [...weights(arguments[0], arguments[1]).found];", block, head
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    chrome.execute_script("set({block: 2, head: 3, position: 4});")
    shown = chrome.execute_script(
        "return [...document.querySelectorAll('#drawing-attention .value')]"
        ".map((e) => e.textContent);"
    )
    last = softmax(scores[4, :5])
    assert len(shown) == 5
    assert numbers.attention.query_lengths is not None
    length = float(text(chrome, "#drawing-attention .said b"))
    assert length == pytest.approx(numbers.attention.query_lengths[2, 3, 4], rel=1e-3)
    assert numbers.attention.key_lengths is not None
    keys = [float(told.split("; ")[1].rstrip(")")) for told in shown if told != "masked"]
    near = numbers.attention.key_lengths[2, 3, :5][last > 0]
    assert keys == pytest.approx(near.tolist(), rel=6e-3)
    for told, weight in zip(shown, last, strict=True):
        assert told == "masked" if weight == 0 else percent(told) == pytest.approx(weight, rel=6e-3)


@pytest.mark.parametrize("name", NAMES)
def test_every_step_stands_with_its_formula_and_shapes(
    chrome: Any, pages: Pages, name: str
) -> None:
    numbers, path = pages(name)
    opened(chrome, path)
    for step in STEPS.split():
        assert text(chrome, f"#{step} .sentence")
        assert text(chrome, f"#{step} .law")
    assert f"{3 + 1} × {len(numbers.tokens)} × 32" in text(chrome, "#stream .shape")
    dials = chrome.execute_script("return document.querySelectorAll('.dials button').length;")
    assert dials == (0 if name == "gpt2" else 4 + len(numbers.tokens))
    assert ("no rotary angles" in text(chrome, "#positions .sentence")) == (name == "gpt2")
    assert chrome.execute_script("return document.querySelectorAll('.cards button').length;") == (
        len(numbers.tokens)
    )
    assert foreign(chrome) == []


def test_it_is_used_by_keyboard(page: tuple[Any, Walk]) -> None:
    from selenium.webdriver.common.keys import Keys

    chrome, numbers = page
    control = chrome.find_element("id", "temperature")
    control.send_keys(Keys.ARROW_RIGHT)
    assert chrome.execute_script("return state.temperature;") == pytest.approx(1.05)
    chrome.find_element("id", "block").send_keys(Keys.HOME)
    assert chrome.execute_script("return state.block;") == 0
    cell = chrome.find_element("css selector", ".grid button[tabindex='0']")
    cell.send_keys(Keys.ARROW_UP)
    cell = chrome.switch_to.active_element
    assert cell.get_attribute("data-cell") == f"2,{len(numbers.tokens) - 1}"
    chrome.find_elements("css selector", ".tokens button")[1].send_keys(Keys.ENTER)
    assert chrome.execute_script("return state.position;") == 1
    chrome.find_elements("css selector", ".cards button")[2].send_keys(Keys.ENTER)
    still = chrome.switch_to.active_element  # drawn again, and still in focus
    assert still.get_attribute("aria-pressed") == "true"
    assert still.text.split("\n")[0] == numbers.tokens[2].text.replace(" ", "·")


def test_a_link_keeps_what_is_picked(chrome: Any, pages: Pages) -> None:
    _, path = pages("gemma2")
    opened(chrome, path, fragment="#position=1&block=2&temperature=0.5&seed=7&head=99&top_p=x")
    state = chrome.execute_script("return state;")
    assert (state["position"], state["block"], state["seed"]) == (1, 2, 7)
    assert (state["temperature"], state["head"], state["top_p"]) == (0.5, 0, 0.9)
    slide(chrome, "top-p", 0.5)
    assert "top_p=0.5" in chrome.current_url
    assert "position=1" in chrome.current_url


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_a_phone(chrome: Any, pages: Pages, name: str) -> None:
    opened(chrome, pages(name)[1], width=390)
    assert chrome.execute_script("return document.documentElement.scrollWidth;") == 390
    right = chrome.execute_script(
        "return [...document.querySelectorAll('section, .sentence, .bars, .controls, .cards')]"
        ".map((e) => e.getBoundingClientRect().right);"
    )
    assert max(right) <= 390


def test_it_is_dark_in_the_dark(page: tuple[Any, Walk]) -> None:
    chrome, _ = page
    colours = (
        "const of = (e) => getComputedStyle(e);"
        "return [of(document.body).backgroundColor, of(document.body).color,"
        "of(document.querySelector('svg text')).fill];"
    )
    light = chrome.execute_script(colours)
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    dark = chrome.execute_script(colours)
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def brightness(colour: str) -> int:
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert brightness(light[0]) > 600 > 300 > brightness(light[1])
    assert brightness(dark[0]) < 150 < 600 < brightness(dark[1])
    assert brightness(dark[2]) > 300


def test_no_text_is_obeyed(page: tuple[Any, Walk]) -> None:
    chrome, _ = page
    assert chrome.execute_script("return document.scripts.length;") == 2
    assert chrome.execute_script("return document.querySelectorAll('h1 *').length;") == 0
    assert text(chrome, "h1") == TEXT
    assert chrome.title == f"lensbench: {TEXT}"


def test_the_page_says_how_it_was_made(page: tuple[Any, Walk]) -> None:
    chrome, numbers = page
    told = text(chrome, "#made")
    for name, value in numbers.facts:
        assert name in told and value in told
    assert "weights_sha256" in told and "transformers" in told and "float32" in told
    assert len(numbers.gate) == 5 and all(check["passed"] for check in numbers.gate)
    embedded = json.loads(text(chrome, "#data"))
    assert embedded["text"] == TEXT
