"""Shares of heads by class: by hand, and what an interval over prompts is of."""

from __future__ import annotations

import numpy as np
import pytest

from lensbench.stats.naming.claims import Claim
from lensbench.stats.naming.names import MIXED, UNDECIDED, classes, labels, named, weigh_claims
from lensbench.stats.naming.shares import (
    PUBLISHED,
    THRESHOLDS,
    TYPES,
    shares,
    third_of,
    types_of,
)

MEANS = {
    "current_token": np.array([0.6, 0.1, 0.1, 0.3]),
    "local_window": np.array([0.2, 0.5, 0.1, 0.31]),
    "first_token": np.array([0.1, 0.1, 0.1, 0.1]),
    "punctuation": np.array([0.0, 0.1, 0.8, 0.1]),
    "separator": np.array([np.nan, np.nan, 0.2, np.nan]),
}


def kinds(threshold: float) -> list[str]:
    return [list(TYPES)[i] for i in types_of(MEANS, threshold)]


def test_a_head_is_of_the_type_that_has_most_if_it_is_enough() -> None:
    assert kinds(0.5) == ["self", "local", "token-specific", "global"]
    assert kinds(0.31) == ["self", "local", "token-specific", "local"]
    assert kinds(0.6) == ["self", "global", "token-specific", "global"]
    assert kinds(0.9) == ["global"] * 4


def test_the_published_shares_are_of_56_heads() -> None:
    printed = {"global": 85.7, "self": 8.9, "local": 3.6, "token-specific": 1.8}
    assert {name: round(100 * share, 1) for name, share in PUBLISHED.items()} == printed
    assert sum(PUBLISHED.values()) == pytest.approx(1)
    assert set(PUBLISHED) == set(TYPES)
    assert THRESHOLDS[0] == 0.1
    assert THRESHOLDS[-1] == 0.9


def test_thirds_of_depth() -> None:
    assert third_of(np.array([0.05, 0.33, 0.34, 0.66, 0.67, 1.0])).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_share_has_an_interval_over_prompts() -> None:
    point = np.array([0, 0, 1, 1])
    rng = np.random.default_rng(0)
    drawn = np.tile(point, (400, 1))
    drawn[:, 1] = rng.random(400) < 0.3  # this head's class hangs on the prompts
    found = shares(["a", "b", "c"], point, drawn, np.arange(40))
    assert (found["a"].value, found["b"].value, found["c"].value) == (0.5, 0.5, 0.0)
    assert found["a"].low is not None
    assert found["a"].low < 0.3 < 0.5 <= found["a"].high
    assert (found["c"].low, found["c"].high) == (0.0, 0.0)
    few = shares(["a", "b"], point, drawn, np.arange(4))
    assert few["a"].low is None
    assert few["a"].reason == "4 prompts: no interval"


def test_prompts_are_counted_apart_from_the_relations_that_are_drawn() -> None:
    point = np.array([0, 1])
    drawn = np.tile(point, (50, 1))
    many = shares(["a"], point, drawn, np.repeat(np.arange(8), 5))["a"]
    assert (many.n, many.n_clusters) == (40, 8)
    few = shares(["a"], point, drawn, np.repeat(np.arange(2), 10))["a"]
    assert (few.n, few.n_clusters, few.reason) == (20, 2, "2 relations: no interval")


def test_labels_are_the_names_in_numbers() -> None:
    """Two named, one mixed, one undecided; drawn again they are counted in the same way."""
    rng = np.random.default_rng(1)
    high, low = (lambda: 0.9 + 0.05 * rng.random(20)), (lambda: 0.1 * rng.random(20))
    own = {
        "a": np.stack([high(), low(), high(), low()], axis=1),
        "b": np.stack([low(), high(), high(), low()], axis=1),
    }
    null = {score: 0.1 * rng.random((20, 4)) for score in own}
    claims = [Claim(score, score, nulls=("random",)) for score in own]
    tested = weigh_claims(claims, {"text": own, "random": null})
    point, drawn = labels(tested)
    texts = [classes(tested)[i] for i in point]
    assert texts == [name.text for name in named(tested)] == ["a", "b", MIXED, UNDECIDED]
    assert (drawn == point).all()
