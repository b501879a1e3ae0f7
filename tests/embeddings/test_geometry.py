"""Angles, corrections, planes and rank correlations against other libraries and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from lensbench.embeddings.geometry import (
    CENTRED,
    PLAIN,
    TOP_REMOVED,
    corrections,
    cosine_grid,
    cosines,
    held_out_cosine,
    mean_cosine,
)
from lensbench.embeddings.maps import pca, umap
from lensbench.embeddings.rated import rank_correlations


@pytest.fixture
def cloud() -> np.ndarray:
    """40 vectors about a mean that is far from zero."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(40, 6)) * [5, 3, 1, 1, 1, 0.5] + [4, 0, -2, 1, 0, 0]


def test_cosines_worked_by_hand() -> None:
    a = np.array([[1.0, 0], [1, 0], [2, 0], [3, 4]])
    b = np.array([[0.0, 7], [-3, 0], [1, 1], [4, 3]])
    assert cosines(a, b) == pytest.approx([0, -1, math.sqrt(0.5), 0.96])


def test_a_zero_vector_and_nan_have_no_angle() -> None:
    found = cosines(np.array([[0.0, 0], [1, np.nan], [1, 1]]), np.ones((3, 2)))
    assert np.isnan(found).tolist() == [True, True, False]
    assert np.isnan(cosine_grid(np.array([[0.0, 0], [1, 1]]))).tolist() == [
        [True, True],
        [True, False],
    ]


def test_the_grid_is_that_of_scikit_learn(cloud: np.ndarray) -> None:
    assert np.allclose(cosine_grid(cloud), cosine_similarity(cloud))


def test_the_plane_is_that_of_scikit_learn(cloud: np.ndarray) -> None:
    other = PCA(2).fit(cloud)
    ours = pca(cloud)
    assert np.allclose(np.abs(ours.places), np.abs(other.transform(cloud)))
    assert ours.explained == pytest.approx(tuple(other.explained_variance_ratio_))


def test_texts_that_are_alike_are_one_place() -> None:
    ours = pca(np.ones((3, 5)))
    assert not ours.places.any()
    assert ours.explained == (0.0, 0.0)


def test_all_but_the_top_takes_out_what_scikit_learn_finds_first(cloud: np.ndarray) -> None:
    plain, centred, top = corrections(cloud)
    assert (plain.name, centred.name, top.name) == (PLAIN, CENTRED, TOP_REMOVED)
    assert np.array_equal(plain.of(cloud), cloud)
    assert np.allclose(centred.of(cloud), cloud - cloud.mean(0))
    (axis,) = PCA(1).fit(cloud).components_
    rest = cloud - cloud.mean(0)
    assert np.allclose(top.of(cloud), rest - np.outer(rest @ axis, axis))


def test_384_dimensions_lose_four_directions() -> None:
    many = np.random.default_rng(0).normal(size=(50, 384))
    assert [len(one.top) for one in corrections(many)] == [0, 0, 4]


def test_anisotropy_is_the_mean_over_all_pairs_and_its_interval_the_jackknife(
    cloud: np.ndarray,
) -> None:
    def plain(vectors: np.ndarray) -> float:
        return float(cosine_similarity(vectors)[np.triu_indices(len(vectors), 1)].mean())

    without = [plain(np.delete(cloud, i, 0)) for i in range(40)]
    error = math.sqrt(39 * np.var(without))
    half = float(stats.t.ppf(0.975, 39)) * error
    found = mean_cosine(cloud)
    assert found == pytest.approx((plain(cloud), plain(cloud) - half, plain(cloud) + half))


def test_pairs_are_those_within_each_group(cloud: np.ndarray) -> None:
    first, second = cloud[:10], cloud[10:]
    inside = [cosine_similarity(g)[np.triu_indices(len(g), 1)] for g in (first, second)]
    assert mean_cosine(first, second).value == pytest.approx(np.concatenate(inside).mean())


def test_a_cone_is_seen_and_centring_takes_it_off() -> None:
    rng = np.random.default_rng(1)
    cone = rng.normal(size=(200, 50)) + 3
    assert held_out_cosine(cone, PLAIN).low > 0.8
    centred = held_out_cosine(cone, CENTRED)
    assert centred.low < 0.02
    assert abs(centred.value) < 0.02


@pytest.mark.parametrize("n", [0, 1])
def test_one_text_has_no_pairs(n: int) -> None:
    assert np.isnan(mean_cosine(np.ones((n, 3)))).all()


def test_rank_correlations_are_scipys_with_its_bootstrap() -> None:
    rng = np.random.default_rng(5)
    ratings = np.round(rng.normal(size=120), 1)  # with ties
    near, far = ratings + rng.normal(size=120), ratings + 3 * rng.normal(size=120)
    values, gains = rank_correlations([far, near], ratings)
    expected = [float(stats.spearmanr(one, ratings).statistic) for one in (far, near)]
    assert [one.value for one in values] == pytest.approx(expected)
    assert gains[0] == (0.0, 0.0, 0.0)
    assert gains[1].value == pytest.approx(expected[1] - expected[0])
    assert gains[1].low > 0
    other = stats.bootstrap(
        (near, ratings),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=400,
        rng=np.random.default_rng(9),
    ).confidence_interval
    assert values[1][1:] == pytest.approx(tuple(other), abs=0.04)


def test_of_few_pairs_there_is_no_interval_and_of_equal_values_no_correlation() -> None:
    ((value, low, high),), _ = rank_correlations([np.arange(5.0)], np.arange(5.0))
    assert value == pytest.approx(1)
    assert np.isnan([low, high]).all()
    assert np.isnan(rank_correlations([np.ones(5)], np.arange(5.0))[0][0].value)


@pytest.mark.slow
def test_umap_keeps_clusters_together_and_gives_the_same_places_again() -> None:
    pytest.importorskip("umap", exc_type=ImportError)
    rng = np.random.default_rng(8)
    clusters = np.concatenate([rng.normal(size=(30, 10)) * 0.1 + 3 * np.eye(10)[k] for k in (0, 5)])
    places = umap(clusters)
    first, second = places[:30], places[30:]
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > 2 * max(first.std(0).max(), second.std(0).max())
    assert np.array_equal(umap(clusters), places)
