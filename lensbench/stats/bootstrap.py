"""Estimates with 95 % intervals, from plain arrays.

Prompts of one relation resemble each other, so an interval that treats them as independent is too
narrow. Here whole relations are drawn with replacement (Field & Welsh 2007, "Bootstrapping
clustered data", J. R. Stat. Soc. B 69) and the interval is the percentile one (Efron & Tibshirani
1993, "An Introduction to the Bootstrap", chapter 13). The seed is fixed: the same records give
the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lensbench.stats.resampling import CONFIDENCE, Floats

N_RESAMPLES = 2000
SEED = 0
_MOST_DRAWN = 4_000_000  # numbers held at once while resampling: 32 MB

LATE_BINDING = (0.75, 0.85)  # the published claim, in relative depth
TINY = 1e-9  # rounding of layer / n_layers
LEVEL = 0.05  # of adjusted p-values, in words and figures
MIN_PROMPTS = 20  # fewer top-1 correct prompts than this give no verdict

Statistic = Literal["mean", "median"]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; what could not be measured is None, with the reason."""

    value: float | None
    low: float | None
    high: float | None
    n: int  # prompts
    n_clusters: int  # relations, or prompts where each stands for itself
    reason: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds, and why."""

    answer: Literal["inside", "outside", "cannot tell"]
    reason: str


def clustered_bootstrap(
    values: ArrayLike,
    clusters: Sequence[object] | pd.Series | None = None,
    statistic: Statistic = "mean",
    nothing: str = "no prompts",
) -> Estimate:
    """Mean or median of `values` (a share is the mean of 0 and 1) with a 95 % interval.

    `clusters` names the relation of each value; None lets each value stand for itself. NaN values
    are skipped. `nothing` is the reason given when no value is left.
    """
    array = np.asarray(values, dtype=np.float64)
    keep = ~np.isnan(array)
    names = np.arange(len(array)) if clusters is None else np.asarray(clusters, dtype=object)
    array, codes = array[keep], pd.factorize(names[keep], sort=True)[0]
    n, k = len(array), int(codes.max()) + 1 if keep.any() else 0
    if n == 0:
        return Estimate(None, None, None, 0, 0, nothing)
    value = float(np.mean(array) if statistic == "mean" else np.median(array))
    if k < 2:
        unit = "prompt" if clusters is None else "relation"
        return Estimate(value, None, None, n, k, f"1 {unit}: no interval")
    resampled = _mean_of(array, codes) if statistic == "mean" else _median_of(array, codes)
    return Estimate(value, *_interval(resampled, k), n, k)


def _interval(
    resampled: Callable[..., Floats], n_clusters: int, batch: int | None = None
) -> tuple[float, float]:
    """The percentile interval of what `resampled` makes of drawn clusters, so many at a time."""
    found = stats.bootstrap(
        (np.arange(n_clusters),),
        resampled,
        n_resamples=N_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        batch=batch,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _mean_of(array: Floats, codes: NDArray[np.intp]) -> Callable[..., Floats]:
    """The mean over drawn clusters, from each cluster's sum and size."""
    sums, sizes = np.bincount(codes, array), np.bincount(codes)

    def mean(drawn: NDArray[np.intp], axis: int = -1) -> Floats:
        return sums[drawn].sum(axis) / sizes[drawn].sum(axis)  # [resamples]

    return mean


def _median_of(array: Floats, codes: NDArray[np.intp]) -> Callable[..., Floats]:
    """The median over drawn clusters: each value weighs as often as its cluster was drawn."""
    k = int(codes.max()) + 1

    def median(drawn: NDArray[np.intp], axis: int = -1) -> Floats:
        drawn = np.moveaxis(drawn, axis, -1)
        rows = drawn.reshape(-1, k)  # [resamples, k]
        cells = rows + k * np.arange(len(rows))[:, None]
        times = np.bincount(cells.ravel(), minlength=cells.size).reshape(rows.shape)
        return weighted_median(array, times[:, codes]).reshape(drawn.shape[:-1])

    return median


def weighted_median(values: ArrayLike, weights: ArrayLike) -> Floats:
    """Median of `values` [n], each repeated `weights` [..., n] times (whole numbers, not all 0).

    Equal to np.median of the repeated values, without building them.
    """
    array, counts = np.asarray(values, dtype=np.float64), np.asarray(weights)
    order = np.argsort(array, kind="stable")
    array, below = array[order], counts[..., order].cumsum(-1)  # below: [..., n]
    total = below[..., -1:]
    lower = (below < (total + 1) // 2).sum(-1)  # index of the first value at or past the middle
    upper = (below < total // 2 + 1).sum(-1)
    return (array[lower] + array[upper]) / 2


def paired_difference(
    a: pd.Series, b: pd.Series, clusters: pd.Series, statistic: Statistic = "median"
) -> Estimate:
    """`a` minus `b`, prompt by prompt (the index), then its mean or median with a 95 % interval.

    Prompts that either side lacks are skipped. `clusters`: the relation by prompt.
    """
    both = pd.concat({"a": a, "b": b}, axis=1, join="inner").astype(float).dropna()
    difference = both["a"] - both["b"]
    return clustered_bootstrap(
        difference, clusters.reindex(both.index), statistic, "no prompt has both"
    )


def summed_bootstrap(
    terms: ArrayLike, of_sums: Callable[[Floats], Floats], clusters: Sequence[object] | None = None
) -> Estimate:
    """A number that follows from the examples' sums, with a 95 % interval over examples.

    `terms` [n, k] are each example's terms; `of_sums` takes their sums [..., k] to the number
    [...]: a mean from (value, 1), perplexity from (bits, tokens), corpus BLEU from its counts. Two
    conditions' terms side by side make it a paired difference. Rows with a NaN are skipped.
    `clusters` names the group of each example, drawn as a whole; None lets each stand for itself.
    """
    array = np.asarray(terms, dtype=np.float64)
    keep = ~np.isnan(array).any(axis=1)
    names = np.arange(len(array)) if clusters is None else np.asarray(clusters, dtype=object)
    codes, own = pd.factorize(names[keep], sort=True)
    n, k = int(keep.sum()), len(own)
    if n == 0:
        return Estimate(None, None, None, 0, 0, "no examples")
    sums = np.zeros((k, array.shape[1]))
    np.add.at(sums, codes, array[keep])  # [cluster, term]
    value = float(of_sums(sums.sum(0)))
    if k < 2:
        what = "example" if n == 1 else "group of examples"
        return Estimate(value, None, None, n, k, f"1 {what}: no interval")

    def resampled(drawn: NDArray[np.intp], axis: int = -1) -> Floats:
        return of_sums(sums[np.moveaxis(drawn, axis, -1)].sum(-2))  # [resamples]

    return Estimate(value, *_interval(resampled, k, max(1, _MOST_DRAWN // sums.size)), n, k)


def summed_difference(
    own: Floats,
    base: Floats,
    of_sums: Callable[[Floats], Floats],
    clusters: Sequence[object] | None = None,
) -> Estimate:
    """The number of `own` minus that of `base`, both [n, k] terms of the same drawn examples."""
    k = own.shape[1]
    both = np.hstack([own, base])
    return summed_bootstrap(
        both, lambda sums: of_sums(sums[..., :k]) - of_sums(sums[..., k:]), clusters
    )


def ratio(sums: Floats) -> Floats:
    """A weighted mean, from the sums [..., 2] of values and of weights."""
    return sums[..., 0] / sums[..., 1]


def late_binding_verdict(estimate: Estimate) -> Verdict:
    """Does the interval of a median depth bear out "answers emerge at 75-85 % of depth"?

    `inside`: the whole interval lies in [0.75, 0.85]; `outside`: all of it lies below or all of it
    above; otherwise, or with too few prompts or relations, it cannot be told.
    """
    low, high = LATE_BINDING
    if estimate.n < MIN_PROMPTS:
        return Verdict("cannot tell", f"{estimate.n} correct prompts, fewer than {MIN_PROMPTS}")
    if estimate.low is None or estimate.high is None:  # also where there is only one relation
        return Verdict("cannot tell", estimate.reason or "no interval")
    if low - TINY <= estimate.low and estimate.high <= high + TINY:
        return Verdict("inside", "the whole interval lies within 75-85 %")
    if estimate.high < low - TINY:
        return Verdict("outside", "the whole interval lies below 75 %")
    if estimate.low > high + TINY:
        return Verdict("outside", "the whole interval lies above 85 %")
    return Verdict("cannot tell", "the interval lies partly inside and partly outside 75-85 %")


def overlap(a: Estimate, b: Estimate) -> bool | None:
    """Whether two intervals share a point; None when one of them is missing."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    return a.low <= b.high and b.low <= a.high
