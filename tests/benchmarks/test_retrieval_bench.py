"""The retrieval bench: its ways agree, and its vectors are as stated."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.retrieval import TOP_K, brute_force, clustered, measure


def test_the_vectors_are_clustered_as_stated() -> None:
    vectors, queries = clustered(4000, 10)
    assert vectors.dtype == queries.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = np.sort(vectors[:50] @ vectors.T, axis=1)[:, ::-1]
    assert cosines[:, 5].mean() == pytest.approx(0.61, abs=0.04)  # 1 / (1 + spread^2)
    assert abs(cosines[:, 2000].mean()) < 0.15


def test_brute_force_is_a_sort() -> None:
    vectors, queries = clustered(200, 5)
    for query in queries:
        assert brute_force(vectors, query) == list(np.argsort(-(vectors @ query))[:TOP_K])


@pytest.mark.usefixtures("postgresql")
@pytest.mark.slow
def test_every_way_is_timed_and_hnsw_is_compared_with_the_exact_search() -> None:
    one = measure(n=300, n_queries=5, rounds=2)
    assert [len(times) for times in one.seconds.values()] == [2, 2, 2]
    assert one.recall >= 0.9
