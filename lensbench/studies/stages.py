"""Stages that studies share, and what became of a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lensbench.errors import Problem
from lensbench.quantized.data.pairs import Pair
from lensbench.quantized.rag.documents import Document
from lensbench.quantized.rag.embedding import load_embedder
from lensbench.quantized.rag.index import create_index

Progress = Callable[[str, int, int], None]  # (stage, done, in all)
Notify = Callable[[str], None]

RUNS = ".runs"  # beneath a study's folder: records that others are made of; reports pass over it


@dataclass(frozen=True)
class StudyOutcome:
    """The records that a study's reports are made of, and what was left out on the way."""

    folders: list[Path]
    problems: list[Problem]


def build_index(folder: Path, pairs: Sequence[Pair], progress: Progress) -> None:
    """Bring an index up to date with these pairs, each one a document."""
    documents = [
        Document(pair.id, f"{pair.question}\n{pair.response}", {"source": "pairs"})
        for pair in pairs
    ]
    with create_index(folder, load_embedder()) as index:
        index.add(
            documents,
            delete_missing=True,
            progress=lambda done, total: progress("index", done, total),
        )
