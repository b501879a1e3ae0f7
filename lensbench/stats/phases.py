"""Phases of a curve: a continuous line in pieces, and where it bends, with intervals.

Segmented regression (Muggeo 2003, Statistics in Medicine 22): y is a + b x and, of each bend k,
c_k max(x - t_k, 0).
All places for the bends t_k are tried, so that the best fit is found and no start decides it; their
number is the one of the least BIC. Intervals are of the wild bootstrap (Wu 1986): the residuals
change sign by chance, so that they may be of any size along the curve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Float, Int

from lensbench.stats.estimates import Estimate
from lensbench.stats.resampling import CONFIDENCE, Seed

MOST = 3  # bends
_APART = 3  # points between two bends, and between a bend and an end
_AT_ONCE = 1 << 24  # numbers of a product
_ROUNDING = 1e-13  # of the sum of squares: what a fit leaves is not known better
Values = Float[np.ndarray, " point"]


@dataclass(frozen=True)
class Phases:
    """Bends along x, and slopes of the pieces between; `explained`: share of the variance of y."""

    bends: list[Estimate]
    slopes: list[Estimate]
    explained: float


def phases(x: Values, y: Values, seed: Seed = 0, resamples: int = 1000, most: int = MOST) -> Phases:
    """The phases of a curve with independent noise at its points; `most`: bends that are tried.

    Each of the intervals covers 95 %, given the number of bends. Of a curve that is bent everywhere
    the pieces are only the nearest lines: residuals are not independent then, and intervals are too
    narrow.

    Raises ValueError for fewer points than four pieces need, or x that does not rise.
    """
    if len(x) != len(y) or len(x) < fewest(most) or not (np.diff(x) > 0).all():
        raise ValueError(f"{len(x)} points, {len(y)} values: too few, or not in order")
    fits = [_fit(tuple(x.tolist()), n) for n in range(most + 1)]
    best = min(fits, key=lambda fit: _bic(fit.least(y[:, None])[1][0], len(x), fit.n_bends))
    (place,), (rest,) = best.least(y[:, None])
    fitted = best.values(place, y)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(len(x), resamples))
    # What a fit of p terms leaves is smaller than the noise was, by (n - p) / n.
    scale = (len(x) / max(len(x) - 2 - 2 * best.n_bends, 1)) ** 0.5
    drawn = fitted[:, None] + scale * (y - fitted)[:, None] * signs
    places, _ = best.least(drawn)
    draws = [best.terms(own, drawn[:, i]) for i, own in enumerate(places)]
    bends, slopes = best.terms(place, y)
    spread = float(((y - y.mean()) ** 2).sum())
    return Phases(
        _estimates(bends, np.array([one for one, _ in draws]), len(x)),
        _estimates(slopes, np.array([one for _, one in draws]), len(x)),
        1 - float(rest) / spread if spread else 1.0,
    )


def fewest(most: int = MOST) -> int:
    """Points that so many bends need."""
    return (most + 1) * _APART + 2


def _bic(rest: float, n: int, n_bends: int) -> float:
    """Schwarz' criterion of least squares: a bend takes a place and a slope."""
    return n * float(np.log(max(rest, 1e-300) / n)) + (2 + 2 * n_bends) * float(np.log(n))


@dataclass(frozen=True)
class _Fit:
    """All fits of so many bends: their places, and an orthonormal basis of each."""

    x: Values
    n_bends: int
    at: Int[np.ndarray, "fit bend"]
    basis: Float[np.ndarray, "fit point term"]

    @classmethod
    def of(cls, x: Values, n_bends: int) -> _Fit:
        inner = range(_APART, len(x) - _APART)
        apart = [
            own
            for own in combinations(inner, n_bends)
            if all(b - a >= _APART for a, b in pairwise(own))
        ]
        at = np.array(apart, dtype=int).reshape(len(apart), n_bends)
        return cls(x, n_bends, at, np.linalg.qr(_terms(x, at))[0])

    def least(self, y: Float[np.ndarray, "point draw"]) -> tuple[Int[np.ndarray, " draw"], Values]:
        """Of each draw the best fit, and the sum of squares that it leaves."""
        whole = (y**2).sum(0)
        found = [self._explained(own) for own in self._pieces(y)]
        best = np.concatenate([own.argmax(0) for own in found])
        most = np.concatenate([own.max(0) for own in found])
        return best, np.maximum(whole - most, _ROUNDING * whole)

    def _pieces(
        self, y: Float[np.ndarray, "point draw"]
    ) -> Iterator[Float[np.ndarray, "point piece"]]:
        size = max(_AT_ONCE // (self.basis.shape[0] * self.basis.shape[2]), 1)
        for start in range(0, y.shape[1], size):
            yield y[:, start : start + size]

    def _explained(self, y: Float[np.ndarray, "point draw"]) -> Float[np.ndarray, "fit draw"]:
        return ((self.basis.transpose(0, 2, 1) @ y) ** 2).sum(1)

    def values(self, fit: int, y: Values) -> Values:
        """The fitted curve."""
        basis = self.basis[fit]
        return basis @ (basis.T @ y)

    def terms(self, fit: int, y: Values) -> tuple[Values, Values]:
        """The bends along x, and the slope of each piece."""
        at = self.at[fit : fit + 1]
        coefficients = np.linalg.lstsq(_terms(self.x, at)[0], y, rcond=None)[0]
        return self.x[at[0]], np.cumsum(coefficients[1:])


@lru_cache(maxsize=MOST + 1)
def _fit(x: tuple[float, ...], n_bends: int) -> _Fit:
    return _Fit.of(np.array(x), n_bends)


def _terms(x: Values, at: Int[np.ndarray, "fit bend"]) -> Float[np.ndarray, "fit point term"]:
    """1, x and a hinge at each bend."""
    hinges = np.maximum(x[None, :, None] - x[at][:, None, :], 0)
    line = np.broadcast_to(np.stack([np.ones_like(x), x], -1), (len(at), len(x), 2))
    return np.concatenate([line, hinges], -1)


def _estimates(values: Values, draws: Float[np.ndarray, "draw term"], n: int) -> list[Estimate]:
    tail = 100 * (1 - CONFIDENCE) / 2
    if not len(values):
        return []
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
    # The estimate itself belongs to its interval, also where the draws lie to one side of it.
    return [
        Estimate(float(v), float(min(a, v)), float(max(b, v)), n, n)
        for v, a, b in zip(values, low, high, strict=True)
    ]
