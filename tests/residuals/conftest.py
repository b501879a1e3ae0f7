"""Residual caches of a tiny model, made once for each way of making them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.studies.stages.cache import run_cache
from tests.harness.caches import ROWS, spec_of, write_prompts
from tests.harness.tiny import Case


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "small.csv", ROWS)


@pytest.fixture(scope="session")
def make(
    llama: Case, prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A cache of the tiny llama, made once for each way of making it."""
    made: dict[str, Path] = {}

    def get(**changes: Any) -> Path:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("cache") / "c"
            assert run_cache(spec_of(llama.folder, prompts, **changes), made[key]) == []
        return made[key]

    return get


@pytest.fixture
def copy_of(make: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A cache of one's own, to damage."""

    def get(**changes: Any) -> Path:
        return Path(shutil.copytree(make(**changes), tmp_path / "copy"))

    return get


@pytest.fixture(scope="session")
def model(llama: Case) -> LensModel:
    return load_model(llama.folder, device="cpu")
