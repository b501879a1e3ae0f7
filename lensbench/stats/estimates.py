"""Estimates over prompts with 95 % intervals, and the verdicts that follow from them.

The intervals are those of `intervals`: chosen by simulation, the same for the same records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lensbench.stats import intervals
from lensbench.stats.intervals import Groups, Interval, least
from lensbench.stats.resampling import Floats

LATE_BINDING = (0.75, 0.85)  # the published claim, in relative depth
TINY = 1e-9  # rounding of layer / n_layers
NO_RELATION = "prompt"  # what a prompt set without relations has as the relation of all
RELATION, BASE, EXAMPLES = "relation", "base prompt", "group of examples"  # a cluster's name
SENTENCE = "sentence"  # of questions that are asked about its words
WORD = "word"  # each stands for itself
_UNITS = {RELATION: ("prompt", "prompts"), BASE: ("prompt", "prompts")}
_UNITS |= {EXAMPLES: ("example", "examples"), SENTENCE: ("question", "questions")}
_UNITS |= {WORD: ("word", "words")}
_SEVERAL = {RELATION: "relations", BASE: "base prompts", EXAMPLES: "groups of examples"}
_SEVERAL |= {SENTENCE: "sentences", WORD: "words"}
LEVEL = 0.05  # of adjusted p-values, in words and figures
MIN_PROMPTS = 20  # fewer top-1 correct prompts than this give no verdict

Statistic = Literal["mean", "median", "share"]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; what could not be measured is None, with the reason."""

    value: float | None
    low: float | None
    high: float | None
    n: int  # prompts
    n_clusters: int  # relations, or prompts where each stands for itself
    reason: str | None = None

    def columns(self, name: str) -> dict[str, float | None]:
        """As a record holds it: the number and the two ends of its interval."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds, and why."""

    answer: Literal["inside", "outside", "cannot tell"]
    reason: str


def clustered_estimate(
    values: ArrayLike,
    clusters: Sequence[object] | pd.Series | None = None,
    statistic: Statistic = "mean",
    nothing: str = "no prompts",
    group: str = RELATION,
) -> Estimate:
    """Mean, median or share (the mean of 0 and 1) of `values`, with a 95 % interval.

    `clusters` names the relation of each value; None, or `NO_RELATION` for all, lets each value
    stand for itself. NaN values are skipped. `nothing` is the reason given when no value is left;
    `group` is what a cluster is called.
    """
    array, groups = _kept(values, clusters)
    if not len(array):
        return Estimate(None, None, None, 0, 0, nothing)
    value = float(np.median(array) if statistic == "median" else np.mean(array))
    make = {
        "mean": intervals.of_mean,
        "median": intervals.of_median,
        "share": intervals.of_share,
    }[statistic]
    return _estimate(value, make(array, groups), groups, statistic, group)


def _kept(
    values: ArrayLike, clusters: Sequence[object] | pd.Series | None
) -> tuple[Floats, Groups]:
    """What is not NaN, and the group of each."""
    array = np.asarray(values, dtype=np.float64)
    keep = ~np.isnan(array)
    return array[keep], _groups(clusters, keep)


def _groups(clusters: Sequence[object] | pd.Series | None, keep: NDArray[np.bool_]) -> Groups:
    """The group of each that is kept; where no relation is named, each prompt is one."""
    if clusters is not None:
        named = pd.Series(np.asarray(clusters, dtype=object)).fillna(NO_RELATION).to_numpy()
        if set(named) != {NO_RELATION}:
            return pd.factorize(named[keep], sort=True)[0]
    return np.arange(int(keep.sum()))


def _estimate(
    value: float, interval: Interval, groups: Groups, statistic: str, group: str
) -> Estimate:
    """With its interval, or the reason why there is none."""
    n, k = len(groups), int(groups.max()) + 1
    if interval is not None:
        return Estimate(value, *interval, n, k)
    several = counted(n, k, group)
    if k == 1:
        why = f"{several}: no interval"
    elif k < least(statistic, n, k):
        why = f"{several}: no interval of a {statistic} covers 90 %"
    else:
        why = f"{several}, most of them equal or far apart: no interval holds"
    return Estimate(value, None, None, n, k, why)


def counted(n: int, k: int, group: str = RELATION) -> str:
    """In words, what is drawn: `n` prompts in `k` relations, or each prompt for itself."""
    one, several = _UNITS[group] if k == n else (group, _SEVERAL[group])
    return f"{k} {one if k == 1 else several}"


def n_relations(relations: pd.Series) -> int:
    """How many there are; 0 of prompts that have none."""
    named = set(relations.dropna())
    return 0 if named == {NO_RELATION} else len(named)


def paired_difference(
    a: pd.Series,
    b: pd.Series,
    clusters: pd.Series,
    statistic: Statistic = "median",
    group: str = RELATION,
) -> Estimate:
    """`a` minus `b`, prompt by prompt (the index), then its mean or median with a 95 % interval.

    As "share" the difference of two shares, `a` and `b` being 0 and 1. Prompts that either side
    lacks are skipped. `clusters`: the relation by prompt.
    """
    both = pd.concat({"a": a, "b": b}, axis=1, join="inner").astype(float).dropna()
    difference, relation = both["a"] - both["b"], clusters.reindex(both.index)
    if statistic != "share" or both.empty:
        return clustered_estimate(difference, relation, statistic, "no prompt has both", group)
    array, groups = _kept(difference, relation)
    interval = intervals.of_share_difference(array, groups)
    return _estimate(float(array.mean()), interval, groups, statistic, group)


def summed_estimate(
    terms: ArrayLike,
    of_sums: Callable[[Floats], Floats],
    clusters: Sequence[object] | None = None,
    several: bool = False,
) -> Estimate:
    """A number that follows from the examples' sums, with a 95 % interval over examples.

    `terms` [n, k] are each example's terms; `of_sums` takes their sums [..., k] to the number
    [...]: a mean from (value, 1), perplexity from (bits, tokens), corpus BLEU from its counts. Two
    conditions' terms side by side make it a paired difference. Rows with a NaN are skipped.
    `clusters` names the group of each example, drawn as a whole; None lets each stand for itself.
    `several`: each row is the sum over several examples, such as the tokens of a document.
    """
    array = np.asarray(terms, dtype=np.float64)
    keep = np.asarray(~np.isnan(array).any(axis=1))
    if not keep.any():
        return Estimate(None, None, None, 0, 0, "no examples")
    array, groups = array[keep], _groups(clusters, keep)
    value = float(of_sums(array.sum(0)))
    interval = intervals.of_sums(array, groups, of_sums, several)
    return _estimate(value, interval, groups, "mean", EXAMPLES)


def summed_difference(
    own: Floats,
    base: Floats,
    of_sums: Callable[[Floats], Floats],
    clusters: Sequence[object] | None = None,
) -> Estimate:
    """The number of `own` minus that of `base`, both [n, k] terms of the same drawn examples."""
    k = own.shape[1]
    both = np.hstack([own, base])
    return summed_estimate(
        both, lambda sums: of_sums(sums[..., :k]) - of_sums(sums[..., k:]), clusters
    )


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


def within(estimate: Estimate, least: float = 0.0, most: float = 1.0) -> Estimate:
    """With its interval cut where the quantity ends: a share, unless other ends are given."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(estimate.low, least), high=min(estimate.high, most))


def all_within(points: pd.Series, least: float, most: float) -> pd.Series:
    """Each of several so."""
    return points.map(lambda point: within(point, least, most))


def rescaled(estimate: Estimate, scale: Callable[[float], float]) -> Estimate:
    """The same number on another, increasing scale, such as perplexity of bits.

    Its ends are those of the number: an interval that is made on the other scale anew may say
    something else of the same texts.
    """
    ends = (estimate.value, estimate.low, estimate.high)
    value, low, high = (None if end is None else float(scale(end)) for end in ends)
    return replace(estimate, value=value, low=low, high=high)


def cells_of(rows: Any, name: str) -> tuple[Any, Any, Any]:
    """A number and its ends of a record's row, or of all rows, named as by `Estimate.columns`."""
    return rows[name], rows[f"{name}_low"], rows[f"{name}_high"]


def of_record(
    cells: Iterable[float | None], n: int, nothing: str, few: str, n_clusters: int | None = None
) -> Estimate:
    """A number and the two ends of its interval, as a record holds them.

    Args:
        nothing: why there is no number, where it is null.
        few: why there is no interval, where its ends are.
        n_clusters: where not each value stands for itself.
    """
    value, low, high = (None if pd.isna(one) else float(one) for one in cells)
    clusters = int(n if n_clusters is None else n_clusters)
    if value is None:
        return Estimate(None, None, None, int(n), clusters, nothing)
    return Estimate(value, low, high, int(n), clusters, few if low is None else None)


def jointly(estimate: Estimate, *more: Estimate, less: Sequence[Estimate] = ()) -> Estimate:
    """An interval that holds over further draws too: those of `more`, and of what is subtracted.

    Distances of the ends from the number are squared and added (MOVER: Zou & Donner 2008). Of two
    draws that cross, such as texts and seeds, each interval holds their interaction, so that it
    counts twice and the sum is on the safe side (Owen 2007). None where one of the intervals is.
    """
    below, above = 0.0, 0.0
    sides = [(one, False) for one in (estimate, *more)] + [(one, True) for one in less]
    for one, turned in sides:
        if one.value is None or one.low is None or one.high is None:
            return replace(estimate, low=None, high=None, reason=one.reason)
        ends = [(one.value - one.low) ** 2, (one.high - one.value) ** 2]
        down, up = reversed(ends) if turned else ends
        below, above = below + down, above + up
    assert estimate.value is not None
    return replace(estimate, low=estimate.value - below**0.5, high=estimate.value + above**0.5)


def overlap(a: Estimate, b: Estimate) -> bool | None:
    """Whether two intervals share a point; None when one of them is missing."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    return a.low <= b.high and b.low <= a.high
