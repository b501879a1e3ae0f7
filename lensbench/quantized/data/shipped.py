"""The data sets that travel with lensbench; `datasets/README.md` says what they are."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import get_args

from lensbench.quantized.data.pairs import Pair, read_pairs
from lensbench.quantized.data.spec import ShippedSet

NAMES: tuple[ShippedSet, ...] = get_args(ShippedSet)


def dataset(name: str) -> Path:
    """The CSV of one of NAMES."""
    return Path(str(resources.files("lensbench.quantized.data") / "datasets" / f"{name}.csv"))


def general_pairs() -> list[Pair]:
    """About a hundred general questions and answers, written for lensbench (CC0-1.0)."""
    return read_pairs(dataset("general")).pairs


def python_reference() -> list[Pair]:
    """What the prompt set `python` asks for: questions and answers about Python (CC0-1.0).

    Each prompt's `document_id` names the one that helps it.
    """
    return read_pairs(dataset("python_reference")).pairs
