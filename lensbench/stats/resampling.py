"""Prompts drawn again: bootstrap weights, and prompts left out in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
LEFT_OUT_GROUPS = 20  # parts of the prompts that are left out in turn

Floats = NDArray[np.float64]
Seed = int | tuple[int, ...]  # what numpy's default_rng takes


def codes_of(groups: Sequence[object] | None, n: int) -> Int[np.ndarray, " prompt"]:
    """The group of each prompt as a number; without groups each prompt stands for itself."""
    if groups is None:
        return np.arange(n)
    return np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1].reshape(-1)


def bootstrap_weights(
    codes: Int[np.ndarray, " prompt"], resamples: int, seed: Seed
) -> Float[np.ndarray, "draw prompt"]:
    """Weights of each bootstrap draw, summing to 1: whole groups drawn with replacement.

    A weighted mean over prompts is then the mean over the drawn ones (Efron & Tibshirani 1993).
    """
    n_groups = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=resamples)
    weights = drawn[:, codes].astype(np.float64)
    return weights / weights.sum(1, keepdims=True)


def percentiles(draws: Float[np.ndarray, " draw *rest"], n_groups: int) -> tuple[Floats, Floats]:
    """The ends of the percentile interval over draws of so many groups, widened for few of them.

    Draws of k groups spread as if each had been known: by sqrt((k - 1) / k) too little, and by a
    normal quantile. Of 2 groups such an interval covers 53 %, widened to Student's, as a mean has
    it, 95 %.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [100 * tail, 100 - 100 * tail], axis=0)
    wider = stats.t.ppf(1 - tail, n_groups - 1) / stats.norm.ppf(1 - tail)
    wider *= (n_groups / (n_groups - 1)) ** 0.5
    middle = draws.mean(0)
    return middle - wider * (middle - low), middle + wider * (high - middle)


def left_out(codes: Int[np.ndarray, " prompt"], seed: Seed) -> list[Int[np.ndarray, " kept"]]:
    """The prompts that stay when each part of the groups is left out in turn."""
    n_groups = int(codes.max()) + 1
    parts = min(n_groups, LEFT_OUT_GROUPS)
    part_of = np.random.default_rng(seed).permutation(n_groups) % parts
    return [np.flatnonzero(part_of[codes] != part) for part in range(parts)]


def jackknife_half_width(estimates: Float[np.ndarray, " part"]) -> float:
    """Half of the 95 % interval from the estimates with each part left out (Tukey 1958).

    For measures of pairs of prompts: drawing a prompt twice, as the bootstrap does, makes a pair
    of identical rows, which such a measure takes for agreement.
    """
    parts = len(estimates)
    variance = (parts - 1) / parts * float(((estimates - estimates.mean()) ** 2).sum())
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, parts - 1)
    return float(quantile * variance**0.5)
