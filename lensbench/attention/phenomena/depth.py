"""Where in a model something is: whether a third of its blocks has more of it than the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.stats.estimates import SENTENCE, Estimate, clustered_estimate
from lensbench.stats.halves import halves

Third = Literal["early", "middle", "deep"]
THIRDS: tuple[Third, ...] = get_args(Third)
# Phenomena of the published claim "middle layers are syntactic, deep ones semantic" that a pattern
# can show: dependencies on the one hand, who is meant on the other.
SYNTACTIC = ("subject-verb", "determiner-noun", "verb-object", "preposition-object")
SEMANTIC = ("pronoun-antecedent",)


@dataclass(frozen=True)
class Depth:
    """The mean of a number over each third of the blocks, and what one third has above the others.

    `above`: the claimed third less each of the other two, with intervals over sentences. That it
    has more than both is sure where both intervals are above 0 (an intersection of two tests needs
    no correction: Berger 1982).
    """

    means: dict[Third, float]
    above: dict[Third, Estimate]


def third_of(block: int, n_blocks: int) -> Third:
    """The third of the depth that the middle of a block is in."""
    return THIRDS[int(3 * (block + 0.5) / n_blocks)]


def in_thirds(
    values: Float[np.ndarray, "unit block"], claimed: Third, sentences: Sequence[object]
) -> Depth | None:
    """Numbers of each block, of sentences or of questions about them, by thirds of the depth.

    None for fewer than three blocks, or without any unit.
    """
    n = values.shape[1]
    if n < len(THIRDS) or not len(values):
        return None
    names = np.array([third_of(block, n) for block in range(n)])
    each = {third: values[:, names == third].mean(1) for third in THIRDS}
    above = {
        third: clustered_estimate(each[claimed] - own, list(sentences), "mean", group=SENTENCE)
        for third, own in each.items()
        if third != claimed
    }
    return Depth({third: float(own.mean()) for third, own in each.items()}, above)


def best_of_each_block(
    right: Bool[np.ndarray, "question head"],
    blocks: Int[np.ndarray, " head"],
    phenomena: Sequence[str],
    sentences: Sequence[object],
    seed: int = 0,
) -> tuple[Float[np.ndarray, "held_out block"], Int[np.ndarray, " held_out"]] | None:
    """Whether the best head of each block is right, and the questions this was asked of.

    The best head is chosen for each phenomenon on the first half of the sentences that have it; the
    questions are those of its other half. None where no phenomenon has enough sentences.

    Args:
        blocks: of each head.
    """
    names, where = np.asarray(phenomena, dtype=object), np.asarray(sentences, dtype=object)
    rows, found = [], []
    for phenomenon in dict.fromkeys(phenomena):
        own = np.flatnonzero(names == phenomenon)
        split = halves(where[own].tolist(), seed)
        if split is None:
            continue
        first, second = (own[half] for half in split)
        score = right[first].mean(0)
        heads = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
        best = [one[score[one].argmax()] for one in heads]
        rows.append(right[np.ix_(second, best)].astype(float))
        found.append(second)
    return (np.concatenate(rows), np.concatenate(found)) if rows else None
