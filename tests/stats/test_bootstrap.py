"""Estimates and intervals against closed forms and against scipy and numpy used directly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lensbench.stats.bootstrap import (
    N_RESAMPLES,
    SEED,
    Estimate,
    clustered_bootstrap,
    late_binding_verdict,
    overlap,
    paired_difference,
    summed_bootstrap,
    weighted_median,
)


def depth(low: float | None, high: float | None, n: int = 50, clusters: int = 6) -> Estimate:
    return Estimate(
        0.8, low, high, n, clusters, None if clusters > 1 else "1 relation: no interval"
    )


def test_mean_of_independent_values_equals_scipy_and_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=400)
    estimate = clustered_bootstrap(values)
    direct = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=N_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx((direct.low, direct.high))
    normal = stats.norm.interval(0.95, values.mean(), values.std(ddof=1) / 20)
    assert (estimate.low, estimate.high) == pytest.approx(normal, abs=0.03)


def test_clusters_that_agree_widen_the_interval_to_that_of_the_cluster_means() -> None:
    means = np.random.default_rng(2).normal(size=25)
    values, clusters = np.repeat(means, 8), np.repeat(np.arange(25), 8)
    clustered, plain = clustered_bootstrap(values, clusters), clustered_bootstrap(means)
    assert clustered.n == 200
    assert clustered.n_clusters == 25
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high))
    naive = clustered_bootstrap(values)
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)


def test_clusters_of_unequal_size_weigh_by_their_prompts() -> None:
    estimate = clustered_bootstrap([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert estimate.value == 0.75
    assert (estimate.low, estimate.high) == (0, 1)  # both draws can be the same relation


def test_median_interval_equals_scipy_on_repeated_values() -> None:
    values = np.random.default_rng(3).normal(size=15)
    direct = stats.bootstrap(
        (values,),
        np.median,
        n_resamples=N_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    estimate = clustered_bootstrap(values, statistic="median")
    assert (estimate.low, estimate.high) == pytest.approx((direct.low, direct.high))


def test_the_order_of_prompts_does_not_matter() -> None:
    values, names = [0.25, 0.5, 0.75, 0.5], ["x", "x", "y", "z"]
    assert clustered_bootstrap(values, names) == clustered_bootstrap(values[::-1], names[::-1])


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 5)), min_size=1, max_size=30).filter(
        lambda rows: any(weight for _, weight in rows)
    )
)
def test_weighted_median_is_the_median_of_the_repeated_values(
    rows: list[tuple[float, int]],
) -> None:
    values, weights = (np.array(column) for column in zip(*rows, strict=True))
    assert weighted_median(values, weights) == pytest.approx(np.median(np.repeat(values, weights)))


def test_weighted_median_of_many_weightings_at_once() -> None:
    weights = [[1, 1, 1], [0, 0, 2], [2, 0, 2]]
    assert weighted_median([1.0, 2.0, 4.0], weights).tolist() == [2.0, 4.0, 2.5]


def test_what_cannot_be_measured_is_null_with_a_reason() -> None:
    assert clustered_bootstrap([], []) == Estimate(None, None, None, 0, 0, "no prompts")
    nothing = clustered_bootstrap([np.nan], ["a"], nothing="never at rank 1")
    assert nothing.reason == "never at rank 1"
    one = clustered_bootstrap([0.5, 0.7], ["a", "a"], "median")
    assert one == Estimate(0.6, None, None, 2, 1, "1 relation: no interval")
    assert clustered_bootstrap([0.5]).reason == "1 prompt: no interval"


def test_nan_is_left_out_of_value_and_count() -> None:
    estimate = clustered_bootstrap([1.0, np.nan, 3.0], ["a", "b", "c"])
    assert (estimate.value, estimate.n, estimate.n_clusters) == (2.0, 2, 2)


def test_paired_difference_takes_prompts_that_both_have() -> None:
    a = pd.Series({"p1": 0.9, "p2": 0.8, "p3": np.nan, "p4": 0.5})
    b = pd.Series({"p2": 0.6, "p1": 0.8, "p3": 0.1})
    relation = pd.Series({"p1": "x", "p2": "y", "p3": "y", "p4": "y"})
    estimate = paired_difference(a, b, relation, "mean")
    assert estimate.value == pytest.approx(0.15)
    assert (estimate.n, estimate.n_clusters) == (2, 2)
    assert paired_difference(a, b[:0], relation).reason == "no prompt has both"


@pytest.mark.parametrize(
    ("estimate", "answer", "reason"),
    [
        (depth(0.75, 0.85), "inside", "within"),
        (depth(0.76, 0.80), "inside", "within"),
        (depth(15 / 20 - 1e-12, 17 / 20 + 1e-12), "inside", "within"),
        (depth(0.60, 0.74), "outside", "below"),
        (depth(0.86, 1.00), "outside", "above"),
        (depth(0.70, 0.80), "cannot tell", "partly"),
        (depth(0.70, 0.90), "cannot tell", "partly"),
        (depth(0.60, 0.75), "cannot tell", "partly"),
        (depth(0.76, 0.80, n=19), "cannot tell", "19 correct prompts"),
        (depth(None, None, clusters=1), "cannot tell", "1 relation"),
        (Estimate(None, None, None, 0, 0, "no prompts"), "cannot tell", "0 correct"),
    ],
)
def test_late_binding_verdict(estimate: Estimate, answer: str, reason: str) -> None:
    verdict = late_binding_verdict(estimate)
    assert verdict.answer == answer
    assert reason in verdict.reason


def test_overlap() -> None:
    assert overlap(depth(0.1, 0.3), depth(0.3, 0.5)) is True
    assert overlap(depth(0.1, 0.3), depth(0.31, 0.5)) is False
    assert overlap(depth(0.1, 0.3), depth(None, None)) is None


def test_summed_bootstrap_of_a_mean_is_near_students_interval() -> None:
    values = np.random.default_rng(3).normal(5, 2, size=400)
    terms = np.column_stack([values, np.ones(400)])
    found = summed_bootstrap(terms, lambda sums: sums[..., 0] / sums[..., 1])
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_summed_bootstrap_leaves_out_what_was_not_measured() -> None:
    terms = np.array([[1.0, 1.0], [np.nan, 1.0], [3.0, 1.0]])
    found = summed_bootstrap(terms, lambda sums: sums[..., 0] / sums[..., 1])
    assert (found.value, found.n) == (2.0, 2)
    nothing = summed_bootstrap(terms[1:2], lambda sums: sums[..., 0])
    assert (nothing.value, nothing.reason) == (None, "no examples")
