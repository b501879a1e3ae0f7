"""Angles between vectors: cosines, how narrow the cone is that all lie in, and what widens it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

PLAIN, CENTRED, TOP_REMOVED = "none", "centred", "all_but_the_top"
_PER_TOP = 100  # dimensions for each direction that is taken out (Mu & Viswanath 2018)
_TAIL = 0.975

Vectors = Float[np.ndarray, "text dimension"]


class Interval(NamedTuple):
    """A number with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


def units(vectors: Vectors) -> Vectors:
    """Of length 1, float64; NaN where a vector is zero or not finite, so that it has no angle."""
    plain = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(plain, axis=-1, keepdims=True)
    known = np.isfinite(length) & (length > 0)
    return np.divide(plain, length, out=np.full_like(plain, np.nan), where=known)


def cosines(a: Vectors, b: Vectors) -> Float[np.ndarray, " text"]:
    """Of each vector with the other of its row, -1..1; NaN where one has no angle."""
    return np.clip((units(a) * units(b)).sum(-1), -1.0, 1.0)


def cosine_grid(vectors: Vectors) -> Float[np.ndarray, "text text"]:
    """Of each vector with every other, -1..1."""
    own = units(vectors)
    return np.clip(own @ own.T, -1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Correction:
    """What is taken from every vector: a mean, and what it has along some directions beyond that.

    Mean-centring has no directions. All-but-the-top (Mu & Viswanath 2018, arXiv 1702.01417) takes
    out the first d / 100 principal directions too: here of the vector less the mean.
    """

    name: str
    mean: Float[np.ndarray, " dimension"]
    top: Float[np.ndarray, "direction dimension"]

    def of(self, vectors: Vectors) -> Vectors:
        """The vectors without it, float64."""
        centred = np.asarray(vectors, dtype=np.float64) - self.mean
        return centred - centred @ self.top.T @ self.top


def corrections(vectors: Vectors) -> list[Correction]:
    """None, mean-centring and all-but-the-top, as these vectors have them."""
    plain = np.asarray(vectors, dtype=np.float64)
    width = plain.shape[1]
    mean, nothing = plain.mean(0), np.zeros((0, width))
    n_top = max(1, round(width / _PER_TOP))
    top = np.linalg.svd(plain - mean, full_matrices=False)[2][:n_top]
    return [
        Correction(PLAIN, np.zeros(width), nothing),
        Correction(CENTRED, mean, nothing),
        Correction(TOP_REMOVED, mean, top),
    ]


def mean_cosine(*groups: Vectors) -> Interval:
    """Mean cosine of two different texts, over all pairs within each group: the anisotropy.

    0 where directions are even, near 1 where all lie in a narrow cone (Ethayarajh 2019, arXiv
    1909.00512). The interval is the jackknife's over texts, with Student's quantiles; what was
    taken from the vectors is held fixed.
    """
    total, pairs, n = 0.0, 0.0, 0
    shares: list[tuple[Float[np.ndarray, " text"], int]] = []  # of each text in the sum over pairs
    for group in groups:
        own = units(group)
        share = own @ own.sum(0) - 1.0
        shares.append((share, len(own) - 1))
        total, pairs, n = (
            total + share.sum() / 2,
            pairs + len(own) * (len(own) - 1) / 2,
            n + len(own),
        )
    if not pairs:
        return Interval(np.nan, np.nan, np.nan)
    value = total / pairs
    if n < 3 or any(pairs == fewer for _, fewer in shares):
        return Interval(value, np.nan, np.nan)
    without = np.concatenate([(total - share) / (pairs - fewer) for share, fewer in shares])
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    half = float(stats.t.ppf(_TAIL, n - 1)) * error
    return Interval(float(value), float(value - half), float(value + half))


def held_out_cosine(vectors: Vectors, name: str) -> Interval:
    """The anisotropy that a correction leaves on texts that it was not made of.

    Every other text makes the correction of the rest: on its own texts a mean is gone by
    construction.
    """
    halves = vectors[0::2], vectors[1::2]
    left = [
        next(one for one in corrections(other) if one.name == name).of(half)
        for half, other in zip(halves, reversed(halves), strict=True)
    ]
    return mean_cosine(*left)
