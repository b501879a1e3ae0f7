"""95 % intervals that cover with few prompts and few groups of them; chosen by simulation.

Prompts of one relation resemble each other, so that relations are what is drawn from a population,
and an interval is made of what each adds. The percentile bootstrap over relations covers 53 % at 2,
74 % at 3, and a share of .95 over five prompts 22 %. `python -m tests.benchmarks.coverage` measures
what these cover (reports/bench/coverage.md). Where none covers 90 % there is none.

`groups` holds the group of each prompt, 0..k - 1. Each function gives (low, high), or None.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from lensbench.stats.resampling import CONFIDENCE, Floats

N_RESAMPLES = 999
SEED = 0
LEAST = 6  # groups: all on one side of the median is rarer than 1 in 20 for six, not for five
LEAST_ALONE = 10  # prompts of a mean, not several to a group: of fewer, skewed as bits, 86-89 %
_SEVERAL = 3  # prompts a group, on average: the groups' means are no longer as skewed as prompts
_TAIL = (1 - CONFIDENCE) / 2
_NORMAL = float(stats.norm.ppf(1 - _TAIL))
_FARTHEST = 10.0  # an end from the number, in units of what the groups' own numbers are apart
_NOTHING = 1e-24  # relative, of a variance that is rounding
_MOST_HELD = 4_000_000  # numbers held at once while resampling: 32 MB

Groups = Int[np.ndarray, "prompt"]
Interval = tuple[float, float] | None


def least(statistic: str, n: int, k: int) -> int:
    """Of how many groups there is an interval, with `n` prompts in `k` of them."""
    if statistic == "median":
        return LEAST
    return LEAST_ALONE if statistic == "mean" and n < _SEVERAL * k else 2


def of_sums(
    terms: Float[np.ndarray, "prompt term"],
    groups: Groups,
    number: Callable[[Floats], Floats],
    several: bool = False,
) -> Interval:
    """Of a number that follows from the prompts' sums [..., term]: a mean, perplexity, BLEU.

    From `LEAST` groups, or `LEAST_ALONE` prompts, the studentised bootstrap (Efron & Tibshirani
    1993, section 12.5): by how many standard errors, its own by the jackknife over groups (Tukey
    1958), the number of each draw of groups is off. Student's quantiles cover skewed numbers, as
    bits are, in 82-88 %. Of fewer groups, if of several prompts each, the jackknife with Student's
    quantiles: wide, and it covers.

    `several`: each row of terms is of several prompts itself, such as the tokens of a document.
    """
    k = int(groups.max()) + 1
    if k < least("mean", len(terms) * (_SEVERAL if several else 1), k):
        return None
    sums = np.zeros((k, terms.shape[1]))
    np.add.at(sums, groups, terms)
    value, error = (float(one[0]) for one in _with_errors(sums, number, np.ones((1, k), int)))
    if error**2 <= _NOTHING * value**2:  # groups that agree by chance say nothing
        each = number(terms.astype(np.float64))
        return (value, value) if np.allclose(each, value, rtol=1e-12, atol=0) else None
    if k < LEAST:
        half = error * _student(np.bincount(groups))
        return value - half, value + half
    drawn = _draws(k)
    rows = max(1, _MOST_HELD // sums.size)
    parts = [_with_errors(sums, number, drawn[i : i + rows]) for i in range(0, N_RESAMPLES, rows)]
    values, errors = (np.concatenate(column) for column in zip(*parts, strict=True))
    off = values - value
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(errors > 0, off / errors, np.copysign(np.inf, off) * (off != 0))
    low, high = np.quantile(
        np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf),
        [_TAIL, 1 - _TAIL],
        method="inverted_cdf",
    )
    if not np.isfinite([low, high]).all():
        return None  # a draw in 40 has no spread at all: most values are equal
    ends = value - float(high) * error, value - float(low) * error
    # A draw in 40 has next to none: ends of a billion bits, or a probability of 75, say nothing.
    apart = np.ptp(number(sums))
    return None if max(value - ends[0], ends[1] - value) > _FARTHEST * apart else ends


@lru_cache(maxsize=8)
def _draws(k: int) -> Int[np.ndarray, "draw group"]:
    """How often each of `k` groups is drawn; the same for every number of a report.

    A byte each, as none is drawn 256 times: ten megabytes for 10,000 groups.
    """
    drawn = np.random.default_rng(SEED).multinomial(k, np.full(k, 1 / k), size=N_RESAMPLES)
    small = drawn.astype(np.min_scalar_type(int(drawn.max())))
    small.setflags(write=False)
    return small


def _with_errors(
    sums: Float[np.ndarray, "group term"],
    number: Callable[[Floats], Floats],
    drawn: Int[np.ndarray, "draw group"],
) -> tuple[Float[np.ndarray, " draw"], Float[np.ndarray, " draw"]]:
    """The number of each draw of groups, each as often as drawn, and its jackknife error."""
    k, whole = len(sums), drawn @ sums  # [draw, term]
    values = number(whole)
    with np.errstate(divide="ignore", invalid="ignore"):
        without = number(whole[:, None] - sums)  # [draw, group]
    off = np.where(drawn > 0, without - values[:, None], 0.0)
    return values, np.sqrt((k - 1) / k * (drawn * off**2).sum(-1))


def of_mean(values: Floats, groups: Groups) -> Interval:
    """Of a mean over prompts."""
    return of_sums(np.column_stack([values, np.ones(len(values))]), groups, ratio)


def ratio(sums: Floats) -> Floats:
    """A weighted mean, from the sums [..., 2] of values and of weights."""
    return sums[..., 0] / sums[..., 1]


def of_share(hits: Floats, groups: Groups) -> Interval:
    """Of a share, from 0 and 1 for each prompt.

    Clopper & Pearson (1934), of as many independent prompts as the spread between groups leaves
    (Korn & Graubard 1998): never more than there are, and where all are alike one for each group.
    Near 0 and 1 most samples hold no hard group, so that their spread is too small and 87 % are
    covered; so it counts for at least as much as with half a group more, of which half are hits.
    """
    n, k = len(hits), int(groups.max()) + 1
    share = float(hits.mean())
    if k < 2:
        return None
    if k == n:
        return _clopper_pearson(share, n)
    if share in (0.0, 1.0):
        return _clopper_pearson(share, k)
    sums, sizes = np.bincount(groups, hits), np.bincount(groups).astype(np.float64)
    more = n / k / 2
    effective = min(
        n,
        _independent(sums.astype(np.float64), sizes),
        _independent(np.append(sums, more / 2), np.append(sizes, more)),
    )
    return _clopper_pearson(share, effective * (_NORMAL / _student(sizes)) ** 2)


def _independent(sums: Floats, sizes: Floats) -> float:
    """As many independent prompts have the variance of a share over these groups."""
    share, variance = sums.sum() / sizes.sum(), _jackknife_of(sums, sizes)
    return float(share * (1 - share) / variance) if variance > 0 else np.inf


def _clopper_pearson(share: float, n: float) -> tuple[float, float]:
    hits = share * n
    low = 0.0 if hits <= 0 else float(stats.beta.ppf(_TAIL, hits, n - hits + 1))
    high = 1.0 if hits >= n else float(stats.beta.ppf(1 - _TAIL, hits + 1, n - hits))
    return low, high


def of_share_difference(differences: Floats, groups: Groups) -> Interval:
    """Of the difference of two shares of the same prompts, from -1, 0 and 1 for each prompt.

    Bonett & Price (2012): as if one more prompt had turned either way. Between groups the spread is
    the jackknife's, where that is larger, with Student's quantiles.
    """
    n, k = len(differences), int(groups.max()) + 1
    if k < 2:
        return None
    variance = _jackknife_variance(differences, groups)
    seen = n if variance > 0 else k  # prompts that would have shown a difference
    up, down = (
        (seen * float((differences == side).mean()) + 1) / (seen + 2) for side in (1.0, -1.0)
    )
    own = (up + down - (up - down) ** 2) / (seen + 2)
    if k == n:
        middle, half = up - down, _NORMAL * own**0.5
    else:
        middle = float(differences.mean())
        half = _student(np.bincount(groups)) * max(own, variance) ** 0.5
    return max(middle - half, -1.0), min(middle + half, 1.0)


def of_median(values: Floats, groups: Groups) -> Interval:
    """Of a median, also of a lattice such as layers: two of the values themselves.

    Each prompt a group: order statistics, by the binomial (Thompson 1936). Otherwise Woodruff
    (1952): the quantiles that the share below the median may stand for, given its spread between
    groups. None below `LEAST` groups, or where those quantiles are not within the values.
    """
    n, k = len(values), int(groups.max()) + 1
    if k < least("median", n, k):
        return None
    ordered = np.sort(values)
    if k == n:
        rank = int(stats.binom.ppf(_TAIL, n, 0.5))  # P(fewer than this below the median) <= tail
        return float(ordered[rank - 1]), float(ordered[n - rank])
    median = np.median(values)
    below = (values < median) + 0.5 * (values == median)
    variance = _jackknife_variance(below, groups)
    effective = min(n, 0.25 / variance) if variance > 0 else k
    half = _student(np.bincount(groups)) * 0.5 / effective**0.5
    if half >= 0.5:
        return None
    low, high = int(np.ceil(n * (0.5 - half))) - 1, int(np.floor(n * (0.5 + half)))
    return float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)])


def _jackknife_variance(values: Floats, groups: Groups) -> float:
    """Of a mean, with each group left out in turn; 0 where that is rounding."""
    sums = np.bincount(groups, values).astype(np.float64)
    return _jackknife_of(sums, np.bincount(groups).astype(np.float64))


def _jackknife_of(sums: Floats, sizes: Floats) -> float:
    """The same from each group's sum and size."""
    k, value = len(sums), sums.sum() / sizes.sum()
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    variance = (k - 1) / k * float(((without - value) ** 2).sum())
    return variance if variance > _NOTHING else 0.0


def _student(sizes: Int[np.ndarray, " group"] | Floats) -> float:
    """Student's quantile, its degrees of freedom k - 1 for k equal groups, fewer for unequal ones.

    Satterthwaite's for the jackknife over groups (Bell & McCaffrey 2002).
    """
    share = sizes / sizes.sum()
    odds = share / (1 - share)
    squares = odds**2
    freedom = odds.sum() ** 2 / (squares.sum() + squares.sum() ** 2 - (squares**2).sum())
    return float(stats.t.ppf(1 - _TAIL, freedom))
