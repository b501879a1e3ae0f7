"""The data sets that travel with lensbench; `datasets/README.md` says what they are."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import NamedTuple, get_args

from lensbench.errors import Problem
from lensbench.prompts.rows import read_rows
from lensbench.quantized.data.pairs import Pair, read_pairs
from lensbench.quantized.data.spec import ShippedSet

NAMES: tuple[ShippedSet, ...] = get_args(ShippedSet)


class RetrievalQuestion(NamedTuple):
    """A question in a user's own words, and the id of the pair that answers it."""

    id: str
    question: str
    document_id: str


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


def retrieval_questions() -> list[RetrievalQuestion]:
    """Questions whose document is known: a general pair, or a docstring pair (`py:...:what`).

    A document of the second kind can be missing from another version of Python.
    """
    problems: list[Problem] = []
    path = dataset("retrieval")
    rows = read_rows(path, path.name, problems, RetrievalQuestion._fields)
    return [RetrievalQuestion(**cells) for _, cells in rows]
