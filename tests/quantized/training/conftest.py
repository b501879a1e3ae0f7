"""Pairs to train a tiny model on, and an undisturbed run over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.training.train import train
from tests.harness.files import write_jsonl
from tests.harness.tiny import Case
from tests.harness.training import ROWS, spec_of


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "pairs.jsonl", ROWS[:14])


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "held-out.jsonl", ROWS[14:])


@pytest.fixture(scope="session")
def undisturbed(
    llama: Case, data: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Eight steps with dropout: a checkpoint after 3, 6 and 8, evaluations at 0, 4 and 8."""
    out = tmp_path_factory.mktemp("undisturbed") / "adapter"
    train(spec_of(llama, data, held_out, out, lora=Lora("1-2", dropout=0.1)))
    return out
