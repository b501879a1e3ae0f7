"""Tests over layers: exact on small cases, and no more false findings than they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from lensbench.compare.correlation.curves import cosine_by_prompt
from lensbench.compare.permutation import (
    ROUNDING,
    adjusted_p_values,
    contrast_null,
    shift_null,
    swap_null,
)
from lensbench.stats.resampling import codes_of
from lensbench.stats.significance import false_discovery, p_values, sign_flips, unit_sums
from tests.harness.correlation_records import N_PROMPTS, PLANTED, base, noisy, planted

Floats = NDArray[np.float64]
ALPHA = 0.05
DRAWS = 200
# With a true rate of 5 %, more false findings than this in 200 draws come once in a thousand times.
MOST_FALSE = int(stats.binom.ppf(0.999, DRAWS, ALPHA))
EACH = np.arange(N_PROMPTS)


def contrasts(reference: Floats, condition: Floats, control: Floats) -> Floats:
    return cosine_by_prompt(reference, control) - cosine_by_prompt(reference, condition)


# --- exact on small cases


def test_all_flips_are_taken_where_there_are_few() -> None:
    signs = sign_flips(3, 100, seed=0)
    assert {tuple(row) for row in signs} == set(itertools.product([1.0, -1.0], repeat=3))
    assert (signs[0] == 1).all()
    many = sign_flips(30, 100, seed=0)
    assert many.shape == (101, 30)
    assert (many[0] == 1).all()


def test_p_is_that_of_scipys_exact_test() -> None:
    values = np.random.default_rng(0).normal(0.5, size=8)
    null = contrast_null(values[:, None], sign_flips(8, 1000, 0))
    exact = stats.permutation_test(
        (values,),
        lambda v, axis: v.mean(axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert p_values(null)[0] == pytest.approx(exact.pvalue)
    t = stats.ttest_1samp(values, 0).statistic
    assert null[0, 0] == pytest.approx(t)


def test_adjusted_p_by_hand() -> None:
    """Step-down maxT over three layers and four draws, counted on paper."""
    null = np.array([[5.0, 3.0, 1.0], [1.0, 4.0, 0.0], [2.0, 0.0, 2.0], [6.0, 1.0, 0.5]])
    # layer 0 against the largest of all: 5, 4, 2, 6 -> 2 of 4;
    # layer 1 against that of layers 1, 2: 3, 4, 2, 1 -> 2 of 4; layer 2: 1, 0, 2, 0.5 -> 2 of 4
    np.testing.assert_allclose(adjusted_p_values(null), [0.5, 0.5, 0.5])
    np.testing.assert_allclose(p_values(null), [0.5, 0.5, 0.5])
    null[1, 2] = 4.0
    np.testing.assert_allclose(adjusted_p_values(null), [0.5, 0.5, 0.75])


def test_one_layer_needs_no_correction_and_more_layers_never_lower_p() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, size=(15, 6))
    null = contrast_null(values, sign_flips(15, 500, 0))
    np.testing.assert_allclose(adjusted_p_values(null[:, :1]), p_values(null[:, :1]))
    assert (adjusted_p_values(null) >= p_values(null)).all()
    assert (np.diff(adjusted_p_values(null)[np.argsort(-null[0])]) >= 0).all()


def test_layers_that_do_not_differ_have_no_p_and_take_no_power() -> None:
    values = np.random.default_rng(0).normal(1.0, size=(12, 3))
    values[:, 1] = ROUNDING / 10
    null = contrast_null(values, sign_flips(12, 500, 0))
    adjusted = adjusted_p_values(null)
    assert np.isnan(adjusted[1])
    assert np.isnan(p_values(null)[1])
    np.testing.assert_allclose(adjusted[[0, 2]], adjusted_p_values(null[:, [0, 2]]))
    assert np.isnan(false_discovery(p_values(null))).tolist() == [False, True, False]


def test_false_discovery_is_benjamini_and_hochbergs() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.5])
    np.testing.assert_allclose(false_discovery(p), [0.04, 0.16 / 3, 0.16 / 3, 0.5])


def test_a_constant_contrast_stays_finite() -> None:
    null = contrast_null(np.full((10, 1), 0.5), sign_flips(10, 2000, 0))
    assert np.isfinite(null).all()
    assert p_values(null)[0] == pytest.approx(1 / 1024)


def test_linked_prompts_are_swapped_together() -> None:
    codes = codes_of(["a", "b", "a", "b", "c"], 5)
    values = np.arange(10.0).reshape(5, 2)
    np.testing.assert_array_equal(unit_sums(values, codes), [[4, 6], [8, 10], [8, 9]])


def test_the_shift_is_the_norm_of_the_sum() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(size=(1, 6, 4))
    signs = sign_flips(6, 100, 0)
    null = shift_null(differences, np.arange(6), signs)
    squares = np.array([((s[:, None] * differences[0]).sum(0) ** 2).sum() for s in signs])
    expected = squares - (differences**2).sum()
    np.testing.assert_allclose(null[:, 0], expected / expected.std(), atol=1e-9)


def test_swapping_recomputes_pearson_of_the_swapped_sets() -> None:
    reference, condition, control = (base(seed, n_prompts=6, n_layers=0) for seed in range(3))
    signs = sign_flips(6, 100, 0)
    null = swap_null(reference, condition, control, signs)[:, 0]
    expected = []
    for row in signs:
        keep = (row > 0)[:, None]
        mine, theirs = (
            np.where(keep, condition[0], control[0]),
            np.where(keep, control[0], condition[0]),
        )
        own = reference[0].mean(0)
        near, far = (np.corrcoef(own, side.mean(0))[0, 1] for side in (theirs, mine))
        expected.append(near - far)
    np.testing.assert_allclose(null, expected / np.sqrt(np.mean(np.square(expected))), atol=1e-9)


# --- planted effects, and none


def test_exactly_the_planted_layers_are_found() -> None:
    reference = base(0)
    values = contrasts(reference, planted(reference, 1), noisy(reference, 2))
    adjusted = adjusted_p_values(contrast_null(values, sign_flips(N_PROMPTS, 2000, 0)))
    assert tuple(np.flatnonzero(adjusted < ALPHA)) == PLANTED


@pytest.mark.parametrize("how", ["contrast", "swap", "shift"])
def test_nothing_is_found_more_often_than_stated(how: str) -> None:
    """200 studies in which nothing changes: any finding at any layer counts as a false one."""
    false = sum(_any_finding(how, seed) for seed in range(DRAWS))
    assert 0 < false <= MOST_FALSE, f"{false} of {DRAWS} studies found something"


def _any_finding(how: str, seed: int) -> bool:
    reference = base(seed)
    condition, control = noisy(reference, 2 * seed + 10_000), noisy(reference, 2 * seed + 10_001)
    signs = sign_flips(N_PROMPTS, 119, seed)
    if how == "contrast":
        null = contrast_null(contrasts(reference, condition, control), signs)
    elif how == "swap":
        null = swap_null(reference, condition, control, signs)
    else:
        null = shift_null(condition - reference, EACH, signs)
    return bool((adjusted_p_values(null) < ALPHA).any())


def test_without_correction_there_are_far_more() -> None:
    """The correction is what keeps the rate: uncorrected, a study of 13 layers mostly finds one."""
    found = 0
    for seed in range(60):
        reference = base(seed)
        values = contrasts(reference, noisy(reference, seed + 500), noisy(reference, seed + 900))
        found += bool((p_values(contrast_null(values, sign_flips(20, 199, seed))) < ALPHA).any())
    assert found > 3 * ALPHA * 60
