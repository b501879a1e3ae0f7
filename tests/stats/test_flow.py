"""Attention over layers against a hand-worked example, and what holds of any patterns."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from lensbench.stats.flow import max_flow, mixing, paths, rollout

# Two heads, three tokens. Their mean, then (A + I) / 2, by hand.
FIRST = np.array(
    [
        [[1, 0, 0], [1, 0, 0], [0.2, 0.8, 0]],
        [[1, 0, 0], [0.6, 0.4, 0], [0.2, 0.4, 0.4]],
    ]
)
SECOND = np.array([[[1, 0, 0], [0.5, 0.5, 0], [0, 0.6, 0.4]]])
FIRST_MIXED = [[1, 0, 0], [0.4, 0.6, 0], [0.1, 0.3, 0.6]]
SECOND_MIXED = [[1, 0, 0], [0.25, 0.75, 0], [0, 0.3, 0.7]]


def test_two_blocks_by_hand() -> None:
    blocks = [mixing(FIRST), mixing(SECOND)]
    assert np.allclose(blocks, [FIRST_MIXED, SECOND_MIXED])
    rolled = rollout(blocks)
    assert np.allclose(rolled[0], FIRST_MIXED)
    # Last row: .3 x (.4, .6, 0) + .7 x (.1, .3, .6).
    assert np.allclose(rolled[1], [[1, 0, 0], [0.55, 0.45, 0], [0.19, 0.39, 0.42]])
    # To token 0: min(.3, .4) over token 1, min(.7, .1) over itself. To 1: .3 and .3; to 2: .6.
    assert np.allclose(max_flow(blocks, 2), [0.4, 0.6, 0.6])
    assert np.allclose(max_flow(blocks, 0), [1, 0, 0])
    edges = paths(blocks, 2)
    assert np.allclose(edges[1], [[0, 0, 0], [0, 0, 0], [0, 0.3, 0.7]])
    assert np.allclose(edges[0], [[0, 0, 0], [0.12, 0.18, 0], [0.07, 0.21, 0.42]])


def patterns(seed: int, n_blocks: int, n_heads: int, n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    drawn = np.tril(rng.gamma(0.3, size=(n_blocks, n_heads, n, n)) + 1e-9)
    return [mixing(own / own.sum(-1, keepdims=True)) for own in drawn]


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_what_holds_of_any_causal_patterns(seed: int, n_blocks: int, n_heads: int, n: int) -> None:
    blocks = patterns(seed, n_blocks, n_heads, n)
    rolled = rollout(blocks)
    assert np.allclose(rolled.sum(-1), 1)
    assert np.allclose(rolled, np.tril(rolled))
    assert (rolled[-1].diagonal() >= 0.5**n_blocks - 1e-12).all()
    edges = paths(blocks, n - 1)
    assert np.allclose(edges.sum((1, 2)), 1)
    assert np.allclose(edges[0].sum(0), rolled[-1, n - 1])
    for below, above in pairwise(edges):
        assert np.allclose(below.sum(1), above.sum(0))  # what comes in goes on
    flow = max_flow(blocks, n - 1)
    assert (flow >= rolled[-1, n - 1] - 1e-9).all()  # the rollout is a flow that edges can hold
    assert (flow <= 1 + 1e-9).all()
    assert flow[n - 1] >= 0.5 - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_a_maximum_flow_is_that_of_linear_programming(seed: int) -> None:
    n, blocks = 4, patterns(seed, 3, 2, 4)
    found = max_flow(blocks, n - 1)
    for key in range(n):
        assert found[key] == pytest.approx(by_programming(blocks, n - 1, key), abs=1e-7)


def by_programming(blocks: list[np.ndarray], query: int, key: int) -> float:
    """The most that can go from the last block's `query` to the input's `key`."""
    n = len(blocks[0])
    edges = [(b, q, k) for b in range(len(blocks)) for q in range(n) for k in range(q + 1)]
    inside = [(b, t) for b in range(1, len(blocks)) for t in range(n)]
    balance = np.zeros((len(inside) + n, len(edges)))
    for e, (b, q, k) in enumerate(edges):
        if (b, k) in inside:
            balance[inside.index((b, k)), e] += 1
        if (b + 1, q) in inside:
            balance[inside.index((b + 1, q)), e] -= 1
        if b == 0 and k != key:
            balance[len(inside) + k, e] = 1  # nothing ends at another token
        if b == len(blocks) - 1 and q != query:
            balance[len(inside) + q, e] += 1  # nothing begins at another one
    gain = [-float(b == 0 and k == key) for b, _, k in edges]
    bounds = [(0, float(blocks[b][q, k])) for b, q, k in edges]
    solved = linprog(gain, A_eq=balance, b_eq=np.zeros(len(balance)), bounds=bounds)
    return -float(solved.fun)


def test_what_moves_nothing_is_the_token_alone_and_a_sink_takes_no_share() -> None:
    nothing = np.array([[[np.nan, np.nan], [np.nan, np.nan]]])
    assert np.allclose(mixing(nothing), np.eye(2))
    with_sink = np.array([[[0.5, 0], [0.1, 0.1]]])  # the rest goes to no token
    assert np.allclose(mixing(with_sink), [[1, 0], [0.25, 0.75]])
