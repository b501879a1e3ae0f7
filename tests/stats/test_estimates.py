"""Estimates and verdicts: what is estimated, over whom, and what is null. Intervals: next door."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lensbench.stats import intervals
from lensbench.stats.estimates import (
    Estimate,
    clustered_estimate,
    late_binding_verdict,
    overlap,
    paired_difference,
    rescaled,
    summed_difference,
    summed_estimate,
    within,
)


def depth(low: float | None, high: float | None, n: int = 50, clusters: int = 6) -> Estimate:
    return Estimate(
        0.8, low, high, n, clusters, None if clusters > 1 else "1 relation: no interval"
    )


def test_the_order_of_prompts_and_the_names_of_relations_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    values, names = rng.random(60), np.repeat(list("abcdefgh"), [2, 3, 5, 8, 12, 10, 10, 10])
    order = rng.permutation(60)
    other = np.array([name.upper() for name in names])
    for statistic in ("mean", "median"):
        one = clustered_estimate(values, names, statistic)
        two = clustered_estimate(values[order], other[order], statistic)
        assert (one.value, one.low, one.high) == pytest.approx((two.value, two.low, two.high))


def test_prompts_of_a_set_without_relations_stand_for_themselves() -> None:
    """What differs there are prompts; of one relation that is named nothing is known of others."""
    values = [0.0, 1, 1, 1, 0, 1, 1, 1]
    unnamed = clustered_estimate(values, ["prompt"] * 8, "share")
    assert unnamed == clustered_estimate(values, None, "share")
    assert (unnamed.n, unnamed.n_clusters) == (8, 8)
    assert unnamed.low is not None
    named = clustered_estimate(values, ["capital"] * 8, "share")
    assert named == Estimate(0.75, None, None, 8, 1, "1 relation: no interval")


def test_clusters_that_agree_widen_the_interval_to_that_of_the_cluster_means() -> None:
    means = np.random.default_rng(2).normal(size=25)
    values, clusters = np.repeat(means, 8), np.repeat(np.arange(25), 8)
    clustered, plain = clustered_estimate(values, clusters), clustered_estimate(means)
    assert (clustered.n, clustered.n_clusters) == (200, 25)
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high))


def test_what_cannot_be_measured_is_null_with_a_reason() -> None:
    assert clustered_estimate([], []) == Estimate(None, None, None, 0, 0, "no prompts")
    nothing = clustered_estimate([np.nan], ["a"], nothing="never at rank 1")
    assert nothing.reason == "never at rank 1"
    one = clustered_estimate([0.5, 0.7], ["a", "a"], "median")
    assert one == Estimate(0.6, None, None, 2, 1, "1 relation: no interval")
    assert clustered_estimate([0.5]).reason == "1 prompt: no interval"
    five = clustered_estimate([0.5, 0.7, 0.3, 0.4, 0.6])
    assert five.reason == "5 prompts: no interval of a mean covers 90 %"
    relations = clustered_estimate(np.arange(40.0), np.repeat(list("abcde"), 8), "median")
    assert relations.reason == "5 relations: no interval of a median covers 90 %"


def test_nan_is_left_out_of_value_and_count() -> None:
    estimate = clustered_estimate([1.0, np.nan, 3.0], ["a", "b", "c"])
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


def test_five_right_of_five_is_not_all_that_there_are() -> None:
    """A share of .95 gives five of five in 77 % of samples: the interval has to hold it."""
    found = clustered_estimate([1.0] * 5, None, "share")
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(
        0.025 ** (1 / 5)
    )  # below that, such a sample is rarer than 1 in 40
    nothing_moved = paired_difference(
        pd.Series([1.0] * 5), pd.Series([1.0] * 5), pd.Series(range(5)), "share"
    )
    assert nothing_moved.low == pytest.approx(-nothing_moved.high)
    assert nothing_moved.high > 0.3


def test_summed_estimates_are_the_number_of_the_sums() -> None:
    rng = np.random.default_rng(3)
    terms = np.column_stack([rng.normal(5, 2, size=400), np.ones(400)])
    found = summed_estimate(terms, intervals.ratio)
    plain = clustered_estimate(terms[:, 0])
    assert (found.value, found.low, found.high) == pytest.approx(
        (plain.value, plain.low, plain.high)
    )
    same = summed_difference(terms, terms, intervals.ratio)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    shifted = summed_difference(terms + np.array([1, 0]), terms, intervals.ratio)
    assert (shifted.value, shifted.low, shifted.high) == pytest.approx((1, 1, 1))


def test_summed_estimate_leaves_out_what_was_not_measured() -> None:
    terms = np.array([[1.0, 1.0], [np.nan, 1.0], [3.0, 1.0]])
    found = summed_estimate(terms, lambda sums: sums[..., 0] / sums[..., 1])
    assert (found.value, found.n) == (2.0, 2)
    nothing = summed_estimate(terms[1:2], lambda sums: sums[..., 0])
    assert (nothing.value, nothing.reason) == (None, "no examples")


def test_a_number_on_another_scale_has_the_ends_of_the_number() -> None:
    bits = Estimate(3.0, 2.0, 5.0, 8, 8)
    assert rescaled(bits, np.exp2) == Estimate(8.0, 4.0, 32.0, 8, 8)
    none, alone = Estimate(None, None, None, 0, 0, "x"), Estimate(1.0, None, None, 1, 1, "1 prompt")
    assert rescaled(none, np.exp2) == none
    assert rescaled(alone, np.exp2) == Estimate(2.0, None, None, 1, 1, "1 prompt")


def test_an_interval_ends_where_its_quantity_does() -> None:
    wide = Estimate(0.5, -0.1, 1.2, 8, 8)
    assert within(wide) == Estimate(0.5, 0.0, 1.0, 8, 8)
    assert within(wide, most=np.inf) == Estimate(0.5, 0.0, 1.2, 8, 8)
    inside, none = Estimate(0.5, 0.1, 0.9, 8, 8), Estimate(0.5, None, None, 1, 1, "1 prompt")
    assert (within(inside), within(none)) == (inside, none)
