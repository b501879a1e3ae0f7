"""A headless Chromium for the interactive pages; what it complains about fails the test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1600",
)


def programs() -> tuple[str, str]:
    """Chromium and its driver; without them the test skips, or fails where CI is set."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    browser = browser or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    reason = "no Chromium with chromedriver here: apt-get install chromium chromium-driver"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A fresh browser; at the end its console must hold no error."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield chrome
        errors = [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        chrome.quit()
    assert errors == []


def wait_for(page: Any, script: str, *arguments: object) -> Any:
    """What the script returns, as soon as it is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page, 20).until(lambda p: p.execute_script(script, *arguments))


def point_at(page: Any, place: tuple[int, int], click: bool = False) -> None:
    """Move the mouse there."""
    from selenium.webdriver.common.action_chains import ActionChains

    actions = ActionChains(page)
    actions.w3c_actions.pointer_action.move_to_location(*place)
    if click:
        actions.click()
    actions.perform()


def centre(page: Any, box: str, x: float, y: float) -> tuple[int, int]:
    """Where a point of a plot is on the screen, from the axes that Plotly drew."""
    left, top = page.execute_script(
        "const box = document.getElementById(arguments[0]), l = box._fullLayout,"
        "at = box.getBoundingClientRect();"
        "return [at.left + l.xaxis._offset + l.xaxis.d2p(arguments[1]),"
        "        at.top + l.yaxis._offset + l.yaxis.d2p(arguments[2])];",
        box,
        x,
        y,
    )
    return round(left), round(top)


def foreign(page: Any) -> list[str]:
    """What the page loaded from elsewhere."""
    loaded = page.execute_script(
        "return performance.getEntriesByType('resource').map((e) => e.name);"
    )
    return [name for name in loaded if not name.startswith(("data:", "blob:", "file:"))]
