"""Controls for retrieval: other text in its place, so that length stays and only meaning changes.

`shuffled` takes what was retrieved for other prompts: the same kind of text, the wrong one. First
comes another prompt's context, by the assignment of prompts to one another that makes the sum of
the differences in length (characters) as small as it can be, no two of a pair sharing a document;
then those of the prompts that follow it in the file. `irrelevant` takes shipped general questions
with their answers: of those, the half least similar to the prompt by the index's own embedding, in
an order that the hash of prompt and id decides. Either is cut to the length in tokens afterwards
(`context.fit_to`). Nothing is drawn at random: the same input gives the same text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np
from jaxtyping import Float

from lensbench.errors import InputProblems, Problem
from lensbench.quantized.data.shipped import general_pairs
from lensbench.quantized.generation.spec import Control

if TYPE_CHECKING:
    from lensbench.quantized.rag.embedding import Embedder
    from lensbench.quantized.rag.index import Hit

CONTROLS: tuple[Control, ...] = get_args(Control)
_ENOUGH = 4  # times the characters to replace; languages differ in characters per token
_SPARE = 400  # characters


def substitutes(
    control: Control, questions: Sequence[str], hits: Sequence[Sequence[Hit]], embedder: Embedder
) -> list[list[Hit]]:
    """For each question the documents that stand in for its hits, in order, more than enough.

    Their score is their own cosine similarity to the question, -1 to 1.
    Raises InputProblems when the prompts retrieved so few documents that none can be exchanged.
    """
    texts = _retrieved(hits) if control == "shuffled" else _general()
    ids = list(texts)
    asked = embedder.embed(questions, task="query")
    scores = asked @ embedder.embed(list(texts.values())).T
    order = _others(hits) if control == "shuffled" else _unlike(questions, ids, scores)
    place = {item: column for column, item in enumerate(ids)}
    return [
        [_hit(item, texts[item], scores[row, place[item]]) for item in _enough(names, texts, own)]
        for row, (names, own) in enumerate(zip(order, hits, strict=True))
    ]


def _hit(item: str, text: str, score: float) -> Hit:
    from lensbench.quantized.rag.index import Hit

    return Hit(item, text, float(score), {})


def _enough(names: Iterable[str], texts: dict[str, str], own: Sequence[Hit]) -> Iterator[str]:
    """The first names, until there is text to spare for what is to be replaced."""
    wanted = _ENOUGH * sum(len(hit.text) for hit in own) + _SPARE
    for name in dict.fromkeys(names):
        if wanted <= 0:
            return
        yield name
        wanted -= len(texts[name])


# --- shuffled -----------------------------------------------------------------------------------


def _retrieved(hits: Sequence[Sequence[Hit]]) -> dict[str, str]:
    return {hit.id: hit.text for own in hits for hit in own}


def _others(hits: Sequence[Sequence[Hit]]) -> list[list[str]]:
    """For each prompt the documents of its partner, then of those after it, none of its own."""
    ids = [[hit.id for hit in own] for own in hits]
    found = []
    for own, partner in zip(ids, partners(hits), strict=True):
        others = (ids[(partner + step) % len(ids)] for step in range(len(ids)))
        apart = (other for other in others if not set(other) & set(own))
        found.append([item for other in apart for item in other])
    return found


def partners(hits: Sequence[Sequence[Hit]]) -> list[int]:
    """For each prompt the one whose documents it gets: a permutation, nobody with its own.

    The sum of the differences in length, in characters, is the least there is (Kuhn 1955).
    Raises InputProblems when there is no permutation in which everybody gets other documents.
    """
    from scipy.optimize import linear_sum_assignment

    ids = [{hit.id for hit in own} for own in hits]
    lengths = np.array([sum(len(hit.text) for hit in own) for own in hits])
    cost = np.abs(lengths[:, None] - lengths).astype(float)
    forbidden = np.array([[bool(a & b) for b in ids] for a in ids])
    np.fill_diagonal(forbidden, True)
    cost[forbidden] = cost.sum() + 1  # more than any permutation without it
    rows, columns = linear_sum_assignment(cost)
    if forbidden[rows, columns].any():
        what = "so many prompts retrieved the same documents that they cannot be exchanged"
        remedy = (
            "Give more, and more different, prompts; or a larger index; or --control irrelevant."
        )
        raise InputProblems([Problem("--control shuffled", what, remedy)])
    return [int(column) for column in columns]


# --- irrelevant ---------------------------------------------------------------------------------


def _general() -> dict[str, str]:
    """The shipped general pairs, as an index would hold them."""
    return {pair.id: f"{pair.instruction}\n{pair.response}" for pair in general_pairs()}


def _unlike(
    questions: Sequence[str], ids: Sequence[str], scores: Float[np.ndarray, "question document"]
) -> list[list[str]]:
    """For each question the half of the documents least similar to it, hashed into an order."""
    half = scores.argsort(axis=1, kind="stable")[:, : len(ids) // 2]
    return [
        sorted((ids[column] for column in row), key=lambda item: _digest(question, item))
        for question, row in zip(questions, half, strict=True)
    ]


def _digest(question: str, item: str) -> bytes:
    return hashlib.sha256(f"{question}\n{item}".encode()).digest()
