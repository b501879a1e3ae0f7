"""Bends that were put into a curve are found, where they are and as many as there are."""

from __future__ import annotations

import numpy as np
import pytest

from lensbench.stats.phases import phases

X = np.linspace(0, 10, 41)


def curve(bends: list[float], slopes: list[float]) -> np.ndarray:
    """5 at the beginning, then lines from bend to bend."""
    steps = np.diff(slopes, prepend=0)
    return 5 + sum(s * np.maximum(X - t, 0) for s, t in zip(steps, [0, *bends], strict=True))


@pytest.mark.parametrize(
    ("bends", "slopes"),
    [([], [-0.4]), ([4.0], [-1.0, -0.1]), ([3.0, 6.0], [0.0, -1.0, -0.2])],
)
def test_a_curve_without_noise_is_found_exactly(bends: list[float], slopes: list[float]) -> None:
    found = phases(X, curve(bends, slopes), resamples=20)
    assert [bend.value for bend in found.bends] == pytest.approx(bends)
    assert [slope.value for slope in found.slopes] == pytest.approx(slopes, abs=1e-6)
    assert found.explained == pytest.approx(1)


def test_intervals_hold_what_was_put_in_as_often_as_they_say() -> None:
    """Over 100 curves whose noise grows along the way: 95 %, give or take what chance allows."""
    chance, bends, slopes = np.random.default_rng(0), [3.0, 6.0], [0.0, -1.0, -0.2]
    hits, n = np.zeros(5), 0
    for number in range(100):
        y = curve(bends, slopes) + chance.normal(0, 0.05 + 0.02 * X)
        found = phases(X, y, seed=number, resamples=150, most=2)
        if len(found.bends) != 2:
            continue
        n += 1
        pairs = zip([*found.bends, *found.slopes], [*bends, *slopes], strict=True)
        hits += [own.low <= true <= own.high for own, true in pairs]
    assert n > 92
    assert (hits / n > 0.88).all(), hits / n


def test_noise_alone_has_no_bend() -> None:
    """BIC adds one that is not there to few of 60 straight lines."""
    chance = np.random.default_rng(1)
    lines = [curve([], [-0.3]) + chance.normal(0, 0.2, len(X)) for _ in range(60)]
    n_bent = sum(bool(phases(X, y, resamples=1).bends) for y in lines)
    assert n_bent <= 7


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        phases(X[:8], X[:8])
