"""A text to train on, and an undisturbed run over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench.pico.train import train_pico
from tests.harness.pico import pico_spec, write_texts


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("pico") / "texts")


@pytest.fixture(scope="session")
def undisturbed(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps; models are kept at 0, 2, 3, 4, 6, 8, 11 and 12."""
    out = tmp_path_factory.mktemp("undisturbed") / "pico"
    train_pico(pico_spec(texts, out))
    return out
