"""The head view of kept patterns: its numbers by hand, and the page in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensbench.attention.kept import square
from lensbench.errors import InputProblems
from lensbench.report.attention import head_view
from lensbench.report.attention.head_view import Kept, head_view_page
from lensbench.report.kit.views import UNKNOWN, HeadView, Nothing
from tests.harness.browser import foreign, wait_for
from tests.harness.pages import MARKUP, Page

TOKENS = ["<s>", " the", MARKUP, "\n", " the", "日本"]
LENGTHS = {"short": TOKENS, "long": TOKENS * 50}  # the long one is 300 tokens
N_BLOCKS, N_HEADS = 3, 4


def patterns(tokens: dict[str, list[str]] = LENGTHS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Random patterns; head 1 looks at the token before and at nothing else."""
    rng, rows = np.random.default_rng(0), list[dict[str, Any]]()
    for item, own in tokens.items():
        n = len(own)
        before = np.eye(n, k=-1)
        before[0, 0] = 1
        for block in range(N_BLOCKS):
            for head in range(N_HEADS):
                weights = np.tril(rng.random((n, n)) ** 8)
                weights = before if head == 1 else weights / weights.sum(1, keepdims=True)
                cells = weights[np.tril_indices(n)].astype(np.float32)
                lengths = 0.1 + rng.random(n).astype(np.float32)
                where = {"model": "m", "prompt_id": item, "block": block, "head": head}
                rows.append(where | {"weights": cells, "moved": lengths})
    texts = {item: "".join(own) for item, own in tokens.items()}
    prompts = [{"prompt_id": i, "prompt": texts[i], "tokens": own} for i, own in tokens.items()]
    return pd.DataFrame(rows), pd.DataFrame(prompts)


def both_ways() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Random patterns of an encoder; head 1 looks at the token after and at nothing else."""
    rows, prompts = patterns({"short": TOKENS})
    rng, n = np.random.default_rng(1), len(TOKENS)
    after = np.eye(n, k=1)
    after[-1, -1] = 1
    weights = [rng.dirichlet(np.full(n, 0.3), n) if h != 1 else after for h in rows["head"]]
    rows["weights"] = [one.ravel().astype(np.float32) for one in weights]
    return rows, prompts


def page(*given: pd.DataFrame) -> bytes:
    return head_view_page(MARKUP, *given, gate=[])


def cells(kept: Kept, weighting: str, block: str, head: str) -> np.ndarray:
    view = kept.view("short", block, head, weighting)
    assert isinstance(view, HeadView)
    assert view.head is not None
    return view.looks.weights[view.head]


@pytest.mark.parametrize("weighting", ["plain", "moved"])
def test_weights_are_those_of_the_record_to_a_thousandth(weighting: str) -> None:
    kept = Kept(*patterns())
    for row in kept.patterns[kept.patterns["prompt_id"] == "short"].to_dict("records"):
        whole = square(row["weights"], 6, row["moved"] if weighting == "moved" else None)
        found = cells(kept, weighting, str(row["block"]), str(row["head"]))
        expected = whole[np.tril_indices(len(TOKENS))]
        assert found / 1000 == pytest.approx(expected, abs=0.00050001)


@pytest.mark.parametrize("weighting", ["plain", "moved"])
def test_a_pattern_that_looks_both_ways_is_whole(weighting: str) -> None:
    kept = Kept(*both_ways())
    assert kept.both_ways("short") and not Kept(*patterns()).both_ways("short")
    for row in kept.patterns.to_dict("records"):
        plain = np.reshape(row["weights"], (6, 6)).astype(float)
        by_hand = plain * (1 if weighting == "plain" else row["moved"][None])
        by_hand /= by_hand.sum(1, keepdims=True)
        whole = square(row["weights"], 6, row["moved"] if weighting == "moved" else None)
        assert whole == pytest.approx(by_hand)
        found = cells(kept, weighting, str(row["block"]), str(row["head"]))
        assert found / 1000 == pytest.approx(by_hand.ravel(), abs=0.00050001)
        drawn = kept.squares("short", row["block"], weighting)[row["head"]]
        assert drawn == pytest.approx(by_hand)


def test_what_is_unknown_is_not_nought() -> None:
    rows, prompts = patterns({"short": TOKENS})
    rows["moved"] = [0 * lengths for lengths in rows["moved"]]  # nothing is moved
    assert (cells(Kept(rows, prompts), "moved", "0", "0") == UNKNOWN).all()


def test_only_what_was_kept_can_be_picked() -> None:
    rows, prompts = patterns({"short": TOKENS})
    assert Kept(rows, prompts).weightings == ["plain", "moved"]
    fewer = rows[(rows["block"] > 0) | (rows["head"] < 2)].assign(moved=None)
    kept = Kept(fewer, prompts)
    assert kept.weightings == ["plain"]
    assert kept.view("short", "0", "3", "plain") == Nothing("block 0 has 2 heads.")
    unasked = Nothing("The run was not asked for this weighting.")
    assert kept.view("short", "0", "0", "moved") == unasked
    found = Page(page(fewer, prompts).decode())
    assert [picker["keys"] for picker in found.data["pickers"]] == [
        ["short"], ["0", "1", "2"], ["0", "1", "2", "3", "mean"], ["plain"],
    ]  # fmt: skip


def test_prompts_for_which_there_is_no_room_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given = patterns()
    monkeypatch.setattr(head_view, "MOST_WEIGHTS", 2 * N_BLOCKS * N_HEADS * 21)
    assert list(Kept(*given).shown) == ["short"]
    assert "1 of 2 prompts can be picked" in page(*given).decode()
    monkeypatch.setattr(head_view, "MOST_WEIGHTS", 100)
    with pytest.raises(InputProblems, match="24 patterns of up to 45,150 weights"):
        page(*given)


# --- in a browser


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "attention_head_view.html"
    path.write_bytes(page(*patterns()))
    return path


@pytest.fixture
def opened(chrome: Any, written: Path) -> Callable[..., Any]:
    def open_it(fragment: str = "", width: int = 1200) -> Any:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        chrome.get("about:blank")
        chrome.get(written.as_uri() + fragment)
        wait_for(chrome, "return document.querySelector('.lines svg');")
        return chrome

    return open_it


def pick(chrome: Any, name: str, option: str) -> None:
    """Picks, and waits until it is drawn."""
    chrome.execute_script(
        "const picker = pickers.find((p) => p.name === arguments[0]), box = byId('chart-0');"
        "window.before = box.drawn; picker.select.value = picker.keys.indexOf(arguments[1]);"
        "picker.select.dispatchEvent(new Event('change'));",
        name,
        option,
    )
    wait_for(chrome, "return byId('chart-0').drawn !== window.before;")


def point(chrome: Any, side: str, place: int, click: bool = False) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    css = f".lines g[data-side={side}][data-place='{place}'] rect"
    actions = ActionChains(chrome).move_to_element(chrome.find_element(By.CSS_SELECTOR, css))
    (actions.click() if click else actions).perform()


def told(chrome: Any, side: str) -> list[str]:
    """The numbers beside the tokens of a column."""
    return chrome.execute_script(
        f"return [...document.querySelectorAll('.lines g[data-side={side}] .told')]"
        ".map((t) => t.textContent);"
    )


def percent(weight: float) -> str:
    return f"{100 * weight:.1f}%" if round(1000 * weight) else ""


def test_a_token_tells_what_it_looks_at_and_what_looks_at_it(opened: Callable[..., Any]) -> None:
    rows = patterns()[0].set_index(["prompt_id", "block", "head"])
    chrome = opened()
    pick(chrome, "block", "2")
    pick(chrome, "head", "3")
    whole = square(rows.at[("short", 2, 3), "weights"], 6)
    point(chrome, "from", 4)
    assert told(chrome, "to") == [*map(percent, whole[4, :5]), ""]
    assert told(chrome, "from") == [""] * 6
    point(chrome, "to", 1)
    assert told(chrome, "from") == ["", *map(percent, whole[1:, 1])]
    pick(chrome, "weighting", "moved")
    own = rows.loc[("short", 2, 3)]
    point(chrome, "from", 5)
    assert told(chrome, "to") == [*map(percent, square(own["weights"], 6, own["moved"])[5])]
    pick(chrome, "weighting", "plain")
    pick(chrome, "head", "mean")
    every = [square(rows.at[("short", 2, head), "weights"], 6) for head in range(N_HEADS)]
    point(chrome, "from", 5)
    found = [float(text.rstrip("%") or 0) for text in told(chrome, "to")]
    assert found == pytest.approx(100 * np.mean(every, 0)[5], abs=0.1001)


def test_lines_are_those_of_the_pattern(opened: Callable[..., Any]) -> None:
    chrome = opened("#head=1")
    paths = "return [...document.querySelectorAll('.lines path')].map((p) => p.getAttribute('d'));"
    ends = [
        path.replace("M", "").replace("C", " ").split() for path in chrome.execute_script(paths)
    ]
    rows = [(float(end[1]), float(end[-1])) for end in ends]
    assert rows == [(10, 10), *((20 * q + 10, 20 * q - 10) for q in range(1, 6))]


def test_lines_go_both_ways_where_a_model_looks_both_ways(chrome: Any, tmp_path: Path) -> None:
    rows, prompts = both_ways()
    (tmp_path / "both.html").write_bytes(page(rows, prompts))
    chrome.get((tmp_path / "both.html").as_uri() + "#head=1")
    wait_for(chrome, "return document.querySelector('.lines path');")
    paths = "return [...document.querySelectorAll('.lines path')].map((p) => p.getAttribute('d'));"
    ends = [
        path.replace("M", "").replace("C", " ").split() for path in chrome.execute_script(paths)
    ]
    drawn = [(float(end[1]), float(end[-1])) for end in ends]
    assert drawn == [*((20 * q + 10, 20 * q + 30) for q in range(5)), (110, 110)]
    pick(chrome, "block", "2")
    pick(chrome, "head", "mean")
    every = [np.reshape(one, (6, 6)) for one in rows[rows["block"] == 2]["weights"]]
    mean = 100 * np.mean(every, 0)
    for side, other, expected in (("from", "to", mean[1]), ("to", "from", mean[:, 1])):
        point(chrome, side, 1)
        found = [float(text.rstrip("%") or 0) for text in told(chrome, other)]
        assert found == pytest.approx(expected, abs=0.1001)


def test_a_click_keeps_a_token_while_heads_change(opened: Callable[..., Any]) -> None:
    chrome = opened()
    point(chrome, "from", 3, click=True)
    listed = "return byId('list-0').textContent;"
    first = chrome.execute_script(listed)
    assert first.startswith("⏎ (position 3) looks at:")
    pick(chrome, "head", "1")
    after = chrome.execute_script(listed)
    assert after != first
    assert after.endswith(f"looks at:100.0%{MARKUP}position 2")  # and at nothing else
    assert "head=1" in chrome.current_url
    point(chrome, "from", 3, click=True)
    assert chrome.execute_script(listed) == ""


def test_no_token_is_obeyed_and_nothing_is_loaded(opened: Callable[..., Any]) -> None:
    chrome = opened()
    point(chrome, "to", 2, click=True)
    assert chrome.execute_script("return document.scripts.length;") == 3
    assert chrome.execute_script("return document.querySelectorAll('b').length;") == 0
    running = "return document.querySelector('.running').textContent;"
    assert chrome.execute_script(running).startswith(f"<s>·the{MARKUP}⏎")
    assert foreign(chrome) == []


@pytest.mark.parametrize("width", [1200, 390])
def test_three_hundred_tokens_fit_and_are_drawn_at_once(
    opened: Callable[..., Any], width: int
) -> None:
    chrome = opened("#prompt=long", width)
    assert (
        chrome.execute_script("return document.querySelectorAll('.lines g[data-side]').length")
        == 600
    )
    assert chrome.execute_script("return document.documentElement.scrollWidth;") <= width
    right = chrome.execute_script(
        "return [...document.querySelectorAll('section, select, input, .running span, .lines svg')]"
        ".map((e) => e.getBoundingClientRect().right);"
    )
    assert max(right) <= width
    script = "document.querySelectorAll('.running span')[250].click();"
    chrome.execute_script(script)  # a token of the text is found in the columns
    at = chrome.execute_script(
        "const box = document.querySelector('.lines').getBoundingClientRect();"
        "const row = document.querySelector('.lines .picked').getBoundingClientRect();"
        "return [box.top, row.top, row.bottom, box.bottom];"
    )
    assert at == sorted(at)


def test_a_dark_page_has_light_tokens(opened: Callable[..., Any]) -> None:
    chrome = opened()
    ink = "return getComputedStyle(document.querySelector('.lines text')).fill;"
    light = chrome.execute_script(ink)
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    dark = chrome.execute_script(ink)
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert (light, dark) == ("rgb(31, 35, 40)", "rgb(230, 237, 243)")
