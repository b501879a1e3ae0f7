"""Stages that studies share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lensbench.progress import Watch
from lensbench.quantized.data.pairs import Pair
from lensbench.quantized.rag.documents import Document
from lensbench.quantized.rag.embedding import load_embedder
from lensbench.quantized.rag.index import create_index

RUNS = ".runs"  # beneath a study's folder: records that others are made of; reports pass over it


def build_index(folder: Path, pairs: Sequence[Pair], progress: Watch) -> None:
    """Bring an index up to date with these pairs, each one a document."""
    documents = [
        Document(pair.id, f"{pair.question}\n{pair.response}", {"source": "pairs"})
        for pair in pairs
    ]
    with create_index(folder, load_embedder()) as index:
        index.add(documents, delete_missing=True, progress=progress)
