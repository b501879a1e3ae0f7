"""`lensbench doctor MODEL`: what is marked as too large is, and a config alone is enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness.program import Program, words
from tests.harness.tiny import Case

HEADING = "GB at the peak"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("model", ["llama3-8b", "smollm2-135m"])
def test_what_does_not_fit_here_is_marked(
    lensbench: Program, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    free = 20 * 10**9
    monkeypatch.setattr("lensbench.checkpoints.devices.memory_available", lambda _: free)
    needs = json.loads(lensbench("doctor", model, "--json").out)["memory"]["needs"]
    shown = lensbench("doctor", model).out.splitlines()
    start = next(i for i, line in enumerate(shown) if line.startswith(HEADING))
    assert "20.0 GB that are free here" in shown[start + 1]
    assert shown[start + 2].split() == ["precision", *next(iter(needs.values()))["peak_bytes"]]
    for line, (name, need) in zip(shown[start + 3 :], needs.items(), strict=False):
        assert line.split()[0] == name
        cells = line.replace(" !", "!").split()[1:]
        assert len(cells) == len(need["peak_bytes"])
        for cell, n_bytes in zip(cells, need["peak_bytes"].values(), strict=True):
            assert float(cell.rstrip("!")) == pytest.approx(n_bytes / 1e9, abs=0.005)
            assert cell.endswith("!") is (n_bytes > free)
    tables = shown[next(i for i, x in enumerate(shown) if x.startswith("memory for")) :]
    of_memory = [line for line in tables if not line.startswith(("cache  /", "extra"))]
    assert max(map(len, of_memory)) <= 80


def test_the_config_is_enough(lensbench: Program, llama: Case, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((llama.folder / "config.json").read_bytes())
    whole = json.loads(lensbench("doctor", llama.folder, "--json").out)["memory"]["needs"]
    alone = lensbench("doctor", tmp_path, "--json")
    assert json.loads(alone.out)["memory"]["needs"] == whole
    missing = lensbench("doctor", "org/not-here")
    assert missing.status == 2
    assert "hf download org/not-here config.json" in words(missing.err)


def test_a_name_that_leads_nowhere_is_said_before_devices_are_tried(
    lensbench: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes seconds."""

    def tried() -> None:
        raise AssertionError

    monkeypatch.setattr("lensbench.quantized.machine._devices", tried)
    missing = lensbench("doctor", "nosuch")
    assert missing.status == 2
    assert "No model is called 'nosuch'." in missing.err
