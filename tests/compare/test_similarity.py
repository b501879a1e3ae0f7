"""Measures of similarity against closed forms and against other ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, pearsonr, spearmanr

from lensbench.compare.forms import massive_dimensions, massive_masks, varied
from lensbench.compare.similarity import MEASURES, pearson_of_means
from lensbench.records.schema.correlation import SIMILARITY_MEASURES
from tests.harness.similarity import similarity

Floats = NDArray[np.float64]


def normal(seed: int, n: int = 12, d: int = 8) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, d)) + 0.5


def value(name: str, x: Floats, y: Floats) -> float:
    found = similarity(MEASURES[name], x, y)
    assert found.value is not None, found.reason
    return found.value


def test_the_contract_names_every_measure() -> None:
    assert list(SIMILARITY_MEASURES) == list(MEASURES)


# --- each measure computed another way


def song_hsic(k: Floats, m: Floats) -> float:
    """The unbiased HSIC as Song et al. (2012) print it, equation 5."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    first = np.trace(k @ m)
    second = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    third = 2 / (n - 2) * one @ k @ m @ one
    return float((first + second - third) / (n * (n - 3)))


@pytest.mark.parametrize("shape", [(12, 8), (9, 40), (5, 3)])
def test_debiased_cka_is_the_ratio_of_unbiased_hsics(shape: tuple[int, int]) -> None:
    x, y = normal(0, *shape), normal(1, *shape)
    y = y + 0.7 * x
    k, m = x @ x.T, y @ y.T
    expected = song_hsic(k, m) / np.sqrt(song_hsic(k, k) * song_hsic(m, m))
    assert value("cka", x, y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(12, 8), (9, 40)])
def test_published_cka_is_that_of_the_features(shape: tuple[int, int]) -> None:
    """Kornblith et al. 2019, equation 4: cross-covariances instead of Gram matrices."""
    x, y = normal(0, *shape), normal(1, *shape) + 0.7 * normal(0, *shape)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert value("cka_biased", x, y) == pytest.approx(expected, abs=1e-12)


def test_pearson_is_that_of_the_mean_vectors() -> None:
    x, y = normal(0), normal(1)
    expected = pearsonr(x.mean(0), y.mean(0)).statistic
    assert value("pearson", x, y) == pytest.approx(expected, abs=1e-12)


def test_pearson_of_weighted_means_is_that_of_the_vectors() -> None:
    x, y = normal(0), normal(1, n=7)
    weights = [np.random.default_rng(i).dirichlet(np.ones(n), 20) for i, n in enumerate((12, 7))]
    found = pearson_of_means(weights[0], x, weights[1], y)
    means = zip(weights[0] @ x, weights[1] @ y, strict=True)
    np.testing.assert_allclose(found, [pearsonr(a, b).statistic for a, b in means], atol=1e-12)


def test_cosine_is_the_mean_over_prompts() -> None:
    x, y = normal(0), normal(1)
    each = [1 - scipy.spatial.distance.cosine(a, b) for a, b in zip(x, y, strict=True)]
    assert value("cosine", x, y) == pytest.approx(np.mean(each), abs=1e-12)


def test_rsa_is_spearmans_correlation_of_dissimilarities() -> None:
    x, y = normal(0), normal(1, d=5)
    y[3] = y[4]  # ties
    expected = spearmanr(pdist(x, "correlation"), pdist(y, "correlation")).statistic
    assert value("rsa", x, y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(12, 8), (9, 40)])
def test_procrustes_is_what_scipy_finds(shape: tuple[int, int]) -> None:
    """scipy also scales the second side, which leaves 1 - s^2 where s is the sum of roots."""
    x, y = normal(0, *shape), normal(1, *shape)
    disparity = scipy.spatial.procrustes(x, y)[2]
    expected = 2 - 2 * np.sqrt(1 - disparity)
    assert value("procrustes", x, y) == pytest.approx(expected, abs=1e-9)


# --- what a measure may not depend on

INVARIANT = ("cka", "cka_biased", "procrustes")


@given(seed=st.integers(0, 2**20), scale=st.floats(0.01, 100), n=st.integers(4, 12))
def test_rotations_shifts_and_scales_change_nothing(seed: int, scale: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 6)), rng.normal(size=(n, 6))
    turned = scale * y @ ortho_group.rvs(6, random_state=seed % 1000) + rng.normal(size=6)
    for name in INVARIANT:
        assert value(name, x, turned) == pytest.approx(value(name, x, y), abs=1e-7)
    for name in MEASURES:
        assert value(name, x, scale * y) == pytest.approx(value(name, x, y), abs=1e-7)


@pytest.mark.parametrize("name", ["cka", "cka_biased", "procrustes", "rsa"])
def test_an_arbitrary_linear_map_changes_it(name: str) -> None:
    x, y = normal(0), normal(1)
    stretched = y @ np.diag([10.0, 1, 1, 1, 1, 1, 1, 0.1])
    assert abs(value(name, x, stretched) - value(name, x, y)) > 0.01


@pytest.mark.parametrize("name", MEASURES)
def test_the_same_is_the_same_and_sides_may_be_swapped(name: str) -> None:
    x, y = normal(0), normal(1)
    assert value(name, x, x) == pytest.approx(0 if name == "procrustes" else 1, abs=1e-9)
    assert value(name, x, y) == pytest.approx(value(name, y, x), abs=1e-12)


def test_procrustes_of_a_rotation_is_zero() -> None:
    x = normal(0)
    turn = ortho_group.rvs(8, random_state=3)
    assert value("procrustes", x, x @ turn) == pytest.approx(0, abs=1e-9)
    assert value("procrustes", x, normal(1)) > 0.1


def test_only_the_debiased_cka_of_noise_is_zero() -> None:
    """With fewer prompts than dimensions the published CKA of unrelated noise is near 1."""
    pairs = [(normal(2 * i, 20, 400), normal(2 * i + 1, 20, 400)) for i in range(40)]
    assert np.mean([value("cka_biased", x, y) for x, y in pairs]) > 0.9
    assert abs(np.mean([value("cka", x, y) for x, y in pairs])) < 0.02


def test_a_known_correlation_comes_out() -> None:
    rng = np.random.default_rng(0)
    rho, d = 0.6, 200_000
    a, noise = rng.normal(size=(2, d))
    y = rho * a + np.sqrt(1 - rho**2) * noise
    assert value("pearson", a[None], y[None]) == pytest.approx(rho, abs=0.005)
    assert value("cosine", a[None], y[None]) == pytest.approx(rho, abs=0.005)


# --- what cannot be measured


@pytest.mark.parametrize("name", MEASURES)
def test_constant_activations_have_no_similarity(name: str) -> None:
    constant = np.full((6, 8), 0.1)
    found = similarity(MEASURES[name], constant, normal(0, 6))
    if name == "cosine":  # a direction, even so
        assert found.value is not None
    else:
        assert found.value is None
        assert "constant" in str(found.reason)


def test_a_zero_vector_has_no_cosine() -> None:
    x = normal(0)
    x[2] = 0
    found = similarity(MEASURES["cosine"], x, normal(1))
    assert (found.value, found.reason is None) == (None, False)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_not_averaged_away(name: str, bad: float) -> None:
    x = normal(0)
    x[1, 1] = bad
    found = similarity(MEASURES[name], normal(1), x)
    assert found.value is None
    assert "NaN" in str(found.reason)


@pytest.mark.parametrize("name", MEASURES)
def test_too_few_prompts_have_a_reason(name: str) -> None:
    least = MEASURES[name].least
    assert similarity(MEASURES[name], normal(0, least), normal(1, least)).value is not None
    if least > 1:
        found = similarity(MEASURES[name], normal(0, least - 1), normal(1, least - 1))
        assert found.value is None
        assert str(least) in str(found.reason)


def test_other_widths_only_where_the_measure_allows_it() -> None:
    for name, measure in MEASURES.items():
        found = similarity(measure, normal(0, d=8), normal(1, d=5))
        assert (found.value is None) == (name in ("pearson", "cosine"))
    found = similarity(MEASURES["cka"], normal(0, 5), normal(1, 6))
    assert "5 prompts" in str(found.reason)


# --- variants


def test_a_dimension_that_dwarfs_its_vector_is_massive() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 5, 50))
    values[2:, :, 7] = 150 * np.median(np.abs(values[2:]), axis=-1) + 30
    values[1, 0, 3] = 5000  # one odd prompt
    (found,) = massive_dimensions(values)
    assert (found.dimension, found.n_layers) == (7, 2)
    assert found.times_median > 100
    assert found.magnitude == np.median(values[found.layer, :, 7])


def test_massive_dimensions_can_make_everything_look_alike() -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(1, 10, 50)) for name in "ab"}
    for own in values.values():
        own[..., 7] += 1000
    masks = massive_masks((own.shape[-1], massive_dimensions(own)) for own in values.values())
    without = varied(values, "without_massive", masks)
    assert without["a"].shape == (1, 10, 49)
    assert value("cosine", values["a"][0], values["b"][0]) > 0.99
    assert abs(value("cosine", without["a"][0], without["b"][0])) < 0.2


def test_centring_takes_the_mean_of_all_conditions_and_prompts() -> None:
    values = {name: normal(i)[None] for i, name in enumerate("abc")}
    centred = varied(values, "centred", {})
    together = np.concatenate([own[0] for own in centred.values()])
    np.testing.assert_allclose(together.mean(0), 0, atol=1e-12)
    difference = centred["a"] - centred["b"]
    np.testing.assert_allclose(difference, values["a"] - values["b"], atol=1e-12)
