"""The rules for device and dtype, and the sum that refuses a model that does not fit."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from lensbench.checkpoints import devices, placement
from lensbench.checkpoints.devices import (
    memory_available,
    pick_device,
    pick_dtype,
    tokens_at_once,
)
from lensbench.checkpoints.placement import Placement, require_fit
from lensbench.errors import ModelError
from tests.harness.program import Program

ROOT = Path(__file__).parents[2]
HUGE = 10**15
CPU = Placement.of("cpu")


def test_best_device_first() -> None:
    best = pick_device()
    assert best == ("cuda" if torch.cuda.is_available() else pick_device(best))
    assert pick_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "xpu", "abacus"])
def test_absent_devices_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match=name):
        pick_device(name)


@pytest.mark.parametrize(("gib", "tokens"), [(4, 512), (8, 1024), (24, 2048), (141, 2048)])
def test_a_pass_is_as_large_as_a_gpu_has_room_for(
    monkeypatch: pytest.MonkeyPatch, gib: int, tokens: int
) -> None:
    there = SimpleNamespace(total_memory=gib << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: there)
    assert tokens_at_once(torch.device("cuda")) == tokens
    assert tokens_at_once(torch.device("cpu")) == 512


def test_dtype_rule() -> None:
    assert pick_dtype(None, "cpu", 10**11) == torch.float32
    assert pick_dtype(None, "cuda", 1_100_000_000) == torch.float32
    assert pick_dtype(None, "cuda", None) == torch.float32
    assert pick_dtype(None, "cuda", 8_030_261_248) in (torch.bfloat16, torch.float16)
    assert pick_dtype("bfloat16", "cpu") == torch.bfloat16
    with pytest.raises(ModelError, match="float32, bfloat16, float16"):
        pick_dtype("int3", "cpu")


def test_memory_is_within_the_machine() -> None:
    assert 0 < memory_available("cpu") <= psutil.virtual_memory().total


def test_container_limit_counts(tmp_path: Path) -> None:
    assert devices._container_memory(tmp_path) > HUGE
    (tmp_path / "memory.current").write_text("600\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 100\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert devices._container_memory(tmp_path) > HUGE
    (tmp_path / "memory.max").write_text("1000\n")
    assert devices._container_memory(tmp_path) == 500


def test_fit_shows_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    require_fit(1_000, "float32", CPU)
    monkeypatch.setattr(placement, "memory_available", lambda device: 22_900_000_000)
    with pytest.raises(ModelError) as caught:
        require_fit(8_030_261_248, torch.float32, CPU)
    message = str(caught.value)
    assert "8.03e+09 parameters x 4 bytes (float32) = 32.1 GB" in message
    assert "22.9 GB on cpu are available" in message
    assert "--dtype bfloat16 (16.1 GB)" in message


def test_fit_without_a_dtype_that_helps() -> None:
    with pytest.raises(ModelError, match="Take a smaller model"):
        require_fit(HUGE, "bfloat16", CPU)


def test_doctor_reports_this_machine(lensbench: Program) -> None:
    facts = json.loads(lensbench("doctor", "--json").out)
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["devices"][-1]["device"] == "cpu"
    assert sum(device["default"] for device in facts["devices"]) == 1
    written = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(facts["extras"]) == set(written["project"]["optional-dependencies"])
    assert "pytest" in facts["extras"]["dev"]["packages"]
    shown = lensbench("doctor").out
    assert "GB available, used by default" in shown
    for name, extra in facts["extras"].items():
        assert extra["install"] in (None, f'pip install "lensbench[{name}]"')
        assert extra["install"] is None or extra["install"] in shown
