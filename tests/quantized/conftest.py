"""A random adapter on the tiny Llama."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.harness.adapters import make_adapter
from tests.harness.tiny import Case


@pytest.fixture(scope="session")
def adapter(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(llama, tmp_path_factory.mktemp("adapter") / "a")


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(adapter, tmp_path / "copy")
