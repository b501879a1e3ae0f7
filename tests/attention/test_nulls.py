"""Conditions under which scores are chance: what they keep of a pattern or a text, and what not."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.attention.compared.nulls import permuted, random_keys, shuffled

HEADS, N = 3, 9


def pattern(window: int = N) -> torch.Tensor:
    """Random attention of a few heads, with a sliding window."""
    back = torch.arange(N)[:, None] - torch.arange(N)[None]
    scores = 3 * torch.randn(HEADS, N, N, generator=torch.Generator().manual_seed(0))
    return scores.masked_fill((back < 0) | (back >= window), -torch.inf).softmax(-1)


@given(n=st.integers(1, 12), seed=st.integers(0, 99), window=st.none() | st.integers(1, 14))
def test_keys_change_places_among_those_that_a_query_may_look_at(
    n: int, seed: int, window: int | None
) -> None:
    for query, row in enumerate(random_keys(n, seed, window).tolist()):
        allowed = list(range(max(0, query + 1 - (window or n)), query + 1))
        assert sorted(row[key] for key in allowed) == allowed
        assert all(row[key] == key for key in range(n) if key not in allowed)


@pytest.mark.parametrize("window", [N, 3])
def test_random_attention_has_the_rows_of_the_head_in_another_order(window: int) -> None:
    real = pattern(window)
    null = permuted(real, random_keys(N, 0, None if window == N else window))
    assert torch.equal(null.sort(-1).values, real.sort(-1).values)  # entropy, sums and all
    assert null.triu(1).abs().max() == 0
    assert null.tril(-window).abs().max() == 0 if window < N else True
    assert not torch.equal(null, real)


def test_under_random_attention_a_score_is_the_share_of_keys_that_it_counts() -> None:
    """Attention to the token before: one key of 2, 3, ... n, whatever the head looks at."""
    real, draws = pattern(), 3000
    found = torch.stack([permuted(real, random_keys(N, seed)) for seed in range(draws)])
    before = found.diagonal(offset=-1, dim1=-2, dim2=-1).mean(-1)  # [draw, head]
    expected = sum(1 / n for n in range(2, N + 1)) / (N - 1)
    error = before.std(0) / draws**0.5
    assert ((before.mean(0) - expected).abs() < 4 * error).all()


def test_every_prompt_has_keys_of_its_own_and_always_the_same() -> None:
    assert torch.equal(random_keys(N, (0, 1)), random_keys(N, (0, 1)))
    assert not torch.equal(random_keys(N, (0, 1)), random_keys(N, (0, 2)))


@given(ids=st.lists(st.integers(0, 9), min_size=1, max_size=12), seed=st.integers(0, 9))
def test_a_shuffled_text_has_the_same_tokens_behind_its_first(ids: list[int], seed: int) -> None:
    found = shuffled(ids, seed)
    assert Counter(found) == Counter(ids)
    assert found[0] == ids[0]
    assert all(type(token) is int for token in found)
