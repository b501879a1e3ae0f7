"""Intervals over few documents of many tokens each."""

from __future__ import annotations

import numpy as np
import pytest

from lensbench.stats.estimates import summed_estimate


@pytest.mark.parametrize("n_documents", (3, 5, 8))
def test_few_documents_of_many_tokens_have_an_interval_that_covers(n_documents: int) -> None:
    """Skewed bits a token, documents that differ, and are of 30 to 128 tokens."""
    rng, covered, n = np.random.default_rng(0), 0, 150
    for _ in range(n):
        sizes = rng.integers(30, 129, n_documents)
        levels = rng.gamma(8, 2 / 8, n_documents)  # mean 2 bits
        sums = [
            rng.exponential(level, size).sum() for level, size in zip(levels, sizes, strict=True)
        ]
        terms = np.stack([sums, sizes], axis=1)
        found = summed_estimate(terms, lambda total: total[..., 0] / total[..., 1], several=True)
        assert found.low is not None and found.high is not None
        covered += found.low <= 2 <= found.high
    assert covered / n >= 0.88


def test_few_prompts_alone_have_none() -> None:
    terms = np.stack([np.arange(8.0), np.ones(8)], axis=1)
    assert summed_estimate(terms, lambda total: total[..., 0] / total[..., 1]).low is None
