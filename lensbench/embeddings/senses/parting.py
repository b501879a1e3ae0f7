"""How far two groups of vectors of one word are apart, layer by layer; numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lensbench.embeddings.geometry import units

_TIE = 1e-6  # of cosines: as an embedding without positions has them, which is the same each time


class Parting(NamedTuple):
    """Of each layer: mean cosines, -1..1, and how often the nearer centroid is the own one."""

    within: Float[np.ndarray, " layer"]
    between: Float[np.ndarray, " layer"]
    accuracy: Float[np.ndarray, " layer"]

    @property
    def separation(self) -> Float[np.ndarray, " layer"]:
        """Mean cosine within a group less that between the groups, -2..2; 0 by chance."""
        return self.within - self.between


def parting(
    states: Float[np.ndarray, "layer sentence d_model"], a: Sequence[int], b: Sequence[int]
) -> Parting:
    """Two groups of sentences, by their rows; each of two or more.

    The accuracy leaves out one sentence of each group at a time and asks which centroid (mean of
    unit vectors) of the rest is nearer by cosine to each of the two: so that both centroids are of
    as many sentences, and chance is 1/2 for groups of one size. A tie counts half.
    """
    own = units(states[:, [*a, *b]])
    gram = own @ own.transpose(0, 2, 1)  # [layer, sentence, sentence]
    first, n = np.arange(len(a)), len(a) + len(b)
    second = np.arange(len(a), n)
    sums, pairs = np.zeros(len(own)), 0
    for group in (first, second):
        block = gram[:, group][:, :, group]
        sums += block.sum((1, 2)) - np.trace(block, axis1=1, axis2=2)
        pairs += len(group) * (len(group) - 1)
    between = gram[:, first][:, :, second].mean((1, 2))
    return Parting(sums / pairs, between, _accuracy(gram, first, second))


def _accuracy(
    gram: Float[np.ndarray, "layer sentence sentence"], a: np.ndarray, b: np.ndarray
) -> Float[np.ndarray, " layer"]:
    right, asked = np.zeros(len(gram)), 0
    for i in a:
        for j in b:
            rest_a, rest_b = a[a != i], b[b != j]
            for row, own, other in ((i, rest_a, rest_b), (j, rest_b, rest_a)):
                nearer = _cosine(gram, row, own) - _cosine(gram, row, other)
                known = np.where(np.abs(nearer) <= _TIE, 0.5, (nearer > 0).astype(float))
                right += np.where(np.isnan(nearer), np.nan, known)
                asked += 1
    return right / asked


def _cosine(
    gram: Float[np.ndarray, "layer sentence sentence"], row: int, others: np.ndarray
) -> Float[np.ndarray, " layer"]:
    """Of a unit vector with the mean of others, all from their products."""
    length = np.sqrt(np.maximum(gram[:, others][:, :, others].sum((1, 2)), 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(gram[:, row, others].sum(1) / length)


def other_words(
    states: Float[np.ndarray, "layer sentence d_model"], words: Sequence[str]
) -> Float[np.ndarray, " layer"]:
    """Mean cosine of occurrences of different words: how narrow the cone of a layer is."""
    own = units(states)
    total, pairs = own.sum(1), len(words) ** 2
    sums = (total**2).sum(-1)
    for word in dict.fromkeys(words):
        rows = [row for row, one in enumerate(words) if one == word]
        sums = sums - (own[:, rows].sum(1) ** 2).sum(-1)
        pairs -= len(rows) ** 2
    return np.asarray(sums / pairs) if pairs else np.full(len(own), np.nan)
