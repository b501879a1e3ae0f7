"""Intervals against closed forms, other programs and simulation: do they cover?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from lensbench.stats import intervals
from lensbench.stats.resampling import Floats, percentiles

ALONE = np.arange


def relations(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def test_a_mean_of_many_is_near_student_s() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=400)
    low, high = intervals.of_mean(values, ALONE(400))
    wanted = stats.t.interval(0.95, 399, values.mean(), values.std(ddof=1) / 20)
    assert (low, high) == pytest.approx(wanted, abs=0.03)


def test_a_mean_of_few_equal_relations_is_student_s_of_their_means() -> None:
    rng = np.random.default_rng(2)
    for k in (2, 3, 4, 5):
        values = rng.normal(size=(k, 10))
        means = values.mean(1)
        wanted = stats.t.interval(0.95, k - 1, means.mean(), stats.sem(means))
        found = intervals.of_mean(values.reshape(-1), relations([10] * k))
        assert found == pytest.approx(wanted)


def test_unequal_relations_leave_fewer_degrees_of_freedom() -> None:
    """As few as two, where two of them are nearly everything."""
    assert intervals._student(np.array([10] * 6)) == pytest.approx(stats.t.ppf(0.975, 5))
    assert intervals._student(np.array([1000, 1000, 1, 1])) == pytest.approx(
        stats.t.ppf(0.975, 1), rel=0.05
    )


def test_draws_are_those_of_the_seed_however_often_they_are_asked_for() -> None:
    for k in (6, 700, 6):
        chance = np.random.default_rng(intervals.SEED)
        wanted = chance.multinomial(k, np.full(k, 1 / k), size=intervals.N_RESAMPLES)
        assert np.array_equal(intervals._draws(k), wanted)
    with pytest.raises(ValueError, match="read-only"):
        intervals._draws(6)[0, 0] = 9


def test_the_error_of_a_drawn_mean_is_the_jackknife_s() -> None:
    """Of each draw by its own values, written out."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=8)
    sums = np.column_stack([values, np.ones(8)])
    drawn = rng.multinomial(8, np.full(8, 1 / 8), size=5)
    numbers, errors = intervals._with_errors(sums, intervals.ratio, drawn)
    for number, error, times in zip(numbers, errors, drawn, strict=True):
        sample = np.repeat(values, times)
        assert number == pytest.approx(sample.mean())
        assert error == pytest.approx(stats.sem(sample))


@pytest.mark.parametrize("n", [5, 12, 50])
def test_a_share_of_prompts_is_clopper_and_pearson_s(n: int) -> None:
    for hits in range(n + 1):
        values = np.array([1.0] * hits + [0.0] * (n - hits))
        wanted = stats.binomtest(hits, n).proportion_ci(0.95, "exact")
        assert intervals.of_share(values, ALONE(n)) == pytest.approx((wanted.low, wanted.high))


def test_relations_that_agree_count_once_each() -> None:
    six = intervals.of_share(np.ones(60), relations([10] * 6))
    assert six == intervals.of_share(np.ones(6), ALONE(6))


@pytest.mark.parametrize("n", [6, 7, 10, 25, 100])
def test_a_median_of_prompts_is_between_order_statistics(n: int) -> None:
    """The closest pair, as far from either end, that the binomial gives 95 %."""
    low, high = intervals.of_median(np.arange(n, dtype=float), ALONE(n))
    below, above = int(low), n - 1 - int(high)
    assert below == above
    outside = 2 * stats.binom.cdf(below, n, 0.5)
    assert outside <= 0.05
    assert 2 * stats.binom.cdf(below + 1, n, 0.5) > 0.05


@pytest.mark.parametrize(
    ("interval", "least"),
    [(intervals.of_mean, 10), (intervals.of_median, 6)],
    ids=["mean", "median"],
)
def test_too_few_prompts_have_none(interval: Callable[..., intervals.Interval], least: int) -> None:
    values = np.arange(1.0, least + 1) ** 1.5
    assert interval(values[1:], ALONE(least - 1)) is None
    assert interval(values, ALONE(least)) is not None


def test_relations_that_agree_by_chance_give_a_mean_no_interval() -> None:
    for k in (2, 6):
        values = np.tile([0.0, 0.2, 0.4, 0.6], k)
        assert intervals.of_mean(values, relations([4] * k)) is None
        assert intervals.of_mean(np.zeros(4 * k), relations([4] * k)) == (0.0, 0.0)


def test_where_nearly_all_are_equal_a_mean_has_none() -> None:
    """One draw in three has no spread: nothing says how far the rare value may reach."""
    assert intervals.of_mean(np.array([0.0] * 9 + [5.3]), ALONE(10)) is None
    assert intervals.of_mean(np.full(10, 0.3), ALONE(10)) == pytest.approx((0.3, 0.3))


def test_percentiles_of_a_mean_s_draws_are_student_s() -> None:
    for k in (2, 4, 10):
        values = np.random.default_rng(k).normal(size=k)
        sd = values.std() / k**0.5  # of draws of k, each as if known
        draws = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000, values.mean(), sd)
        found = [float(end) for end in percentiles(draws, k)]
        wanted = stats.t.interval(0.95, k - 1, values.mean(), stats.sem(values))
        assert found == pytest.approx(wanted, abs=1e-2)


# The table of all populations: python -m tests.benchmarks.coverage.


@pytest.mark.parametrize("k", [2, 3, 5, 8])
@pytest.mark.parametrize("mean", [0.5, 0.95])
def test_shares_of_few_relations_are_covered(k: int, mean: float) -> None:
    rng = np.random.default_rng(k)
    hits = 0
    for _ in range(300):
        groups = relations(list(rng.integers(5, 31, k)))
        easy = rng.beta(4 * mean, 4 * (1 - mean), k)[groups]
        low, high = intervals.of_share((rng.random(len(groups)) < easy).astype(float), groups)
        hits += low <= mean <= high
    assert hits >= 0.92 * 300


@pytest.mark.parametrize("k", [8, 12, 16, 20])
def test_shares_near_one_are_covered_where_relations_differ_much(k: int) -> None:
    """Half of the variance between relations, which most samples hold no hard one of."""
    rng = np.random.default_rng(k)
    hits = 0
    for _ in range(600):
        groups = relations(list(rng.integers(5, 31, k)))
        easy = rng.beta(0.95, 0.05, k)[groups]
        low, high = intervals.of_share((rng.random(len(groups)) < easy).astype(float), groups)
        hits += low <= 0.95 <= high
    assert hits >= 0.93 * 600


@pytest.mark.parametrize("k", [2, 3, 5, 6, 12])
def test_means_of_few_relations_are_covered(k: int) -> None:
    rng = np.random.default_rng(k)
    hits = 0
    for _ in range(300):
        groups = relations(list(rng.integers(5, 31, k)))
        values = rng.normal(0, 0.65, k)[groups] + rng.normal(size=len(groups))
        low, high = intervals.of_mean(values, groups)
        hits += low <= 0 <= high
    assert hits >= 0.91 * 300


def test_skewed_means_of_few_prompts_are_covered_better_than_by_student() -> None:
    rng = np.random.default_rng(0)
    hits = student = 0
    for _ in range(300):
        values = rng.lognormal(0, 1, 10)
        low, high = intervals.of_mean(values, ALONE(10))
        hits += low <= np.exp(0.5) <= high
        low, high = stats.t.interval(0.95, 9, values.mean(), stats.sem(values))
        student += low <= np.exp(0.5) <= high
    assert hits >= 0.89 * 300 > student


@pytest.mark.parametrize("k", [6, 12])
def test_medians_of_layers_are_covered(k: int) -> None:
    rng = np.random.default_rng(k)
    hits = given = 0
    for _ in range(300):
        groups = relations(list(rng.integers(5, 31, k)))
        level = 20 + rng.normal(0, 3.3, k)[groups]
        layers = (level + rng.normal(0, 4, len(groups))).round().clip(0, 30)
        found = intervals.of_median(layers, groups)
        if found is not None:
            given += 1
            hits += found[0] <= 20 <= found[1]
    assert given >= 0.85 * 300
    assert hits >= 0.92 * given


def test_groups_nearly_all_alike_make_no_interval_of_billions() -> None:
    """As entropies after the embedding are: next to nothing in all relations but one."""
    chance = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 10)
    values = 1e-9 * chance.random(120)
    values[:3] = 0.02
    found = intervals.of_mean(values, groups)
    assert found is None or max(map(abs, found)) < 1


@given(arrays(np.float64, 120, elements=st.floats(0, 1)), st.integers(6, 12))
def test_no_end_is_far_outside_of_what_was_seen(values: Floats, k: int) -> None:
    groups = np.arange(120) % k
    means = np.bincount(groups, values) / np.bincount(groups)
    found = intervals.of_mean(values, groups)
    if found is not None:
        furthest = 10 * np.ptp(means) + 1e-12
        assert max(values.mean() - found[0], found[1] - values.mean()) <= furthest
