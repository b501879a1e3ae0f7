"""Tiny models of the second path, each loaded once at each precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from tests.harness.tiny import Case


@pytest.fixture(scope="session")
def loaded() -> Callable[[Case, int], AdaptedModel]:
    """A family's model in so many bits, for tests that only read it."""

    @cache
    def load(folder: Path, bits: int) -> AdaptedModel:
        return load_quantized(folder, bits, device="cpu")

    return lambda case, bits: load(case.folder, bits)
