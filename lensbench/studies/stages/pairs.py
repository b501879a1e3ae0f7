"""Stages that studies share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from lensbench.checkpoints.stored.heap import release
from lensbench.errors import Problem
from lensbench.progress import Notify, Watch
from lensbench.quantized.data.pairs import Pair, write_jsonl
from lensbench.quantized.data.sources import pairs_of
from lensbench.quantized.data.split import split
from lensbench.quantized.rag.documents import Document
from lensbench.quantized.rag.embedding import load_embedder
from lensbench.quantized.rag.index import create_index
from lensbench.studies.specs.adapter import AdapterSpec
from lensbench.studies.specs.placement import PlacementSpec

RUNS = ".runs"  # beneath a study's folder: records that others are made of; reports pass over it


def build_index(folder: Path, pairs: Sequence[Pair], progress: Watch) -> None:
    """Bring an index up to date with these pairs, each one a document."""
    _fill(folder, pairs, progress)
    release()  # the embedder: a model is loaded next


def _fill(folder: Path, pairs: Sequence[Pair], progress: Watch) -> None:
    with create_index(folder, load_embedder()) as index:
        index.add(as_documents(pairs), delete_missing=True, progress=progress)


def as_documents(pairs: Sequence[Pair]) -> list[Document]:
    """What a search of pairs finds: question and response together."""
    return [
        Document(pair.id, f"{pair.question}\n{pair.response}", {"source": "pairs"})
        for pair in pairs
    ]


def chosen_pairs(spec: AdapterSpec | PlacementSpec) -> tuple[list[Pair], list[Problem]]:
    """At most `limit` pairs of each source, and what was wrong with others."""
    pairs: list[Pair] = []
    problems: list[Problem] = []
    for source in spec.data:
        found, wrong = pairs_of(source)
        chosen = {pair.id for pair in shuffled(found, spec.seed)[: spec.limit]}
        pairs += [pair for pair in found if pair.id in chosen]
        problems += wrong
    return pairs, problems


def part_pairs(
    spec: AdapterSpec | PlacementSpec,
    pairs: Sequence[Pair],
    shares: Mapping[str, float],
    folder: Path,
    notify: Notify,
) -> dict[str, list[Pair]]:
    """The parts of a study's pairs, each in a file too; whole groups go to one of them.

    Of "test" there are no more than the spec says.
    """
    parts = split(pairs, shares, spec.seed)
    parts["test"] = shuffled(parts["test"], spec.seed)[: spec.test_limit]
    for name, part in parts.items():
        write_jsonl(folder / f"{name}.jsonl", part)
    notify(", ".join(f"{len(part):,} pairs for {name}" for name, part in parts.items()))
    return parts


def shuffled(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Pairs in an order that each one's id and the seed decide: more pairs reorder nothing."""
    return sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}:{pair.id}".encode()).digest())
