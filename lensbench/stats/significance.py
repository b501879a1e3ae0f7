"""Whether something is more than chance: random signs, p-values of draws, false discoveries."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import stats

from lensbench.stats.resampling import Floats, Seed


def sign_flips(n_units: int, resamples: int, seed: Seed) -> Float[np.ndarray, "draw unit"]:
    """Signs of each unit, the true ones first; all of them when there are no more than asked.

    A p-value that counts the true one among the draws is never too small (Phipson & Smyth 2010).
    """
    if 2**n_units <= resamples + 1:
        every = np.arange(2**n_units)[:, None] >> np.arange(n_units)
        return 1.0 - 2.0 * (every & 1)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, n_units))
    return np.concatenate([np.ones((1, n_units)), signs])


def unit_sums(
    values: Float[np.ndarray, "prompt test"], codes: Int[np.ndarray, " prompt"]
) -> Float[np.ndarray, "unit test"]:
    """Sums over linked prompts, which are swapped together."""
    sums = np.zeros((int(codes.max()) + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums


def p_values(null: Float[np.ndarray, "draw test"]) -> Float[np.ndarray, " test"]:
    """Share of draws, the true one (first) included, at least as large as it; NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        shares = at_least(null, null[0]).mean(0)
    return np.where(np.isnan(null[0]), np.nan, shares)


def false_discovery(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Benjamini & Hochberg's adjusted p-values (1995); NaN where there is none."""
    adjusted = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known])
    return adjusted


def at_least(draws: Floats, true: Floats) -> NDArray[np.bool_]:
    """Whether a draw reaches the true statistic; equal but for rounding counts."""
    return draws >= true - 1e-9 * np.maximum(np.abs(true), 1.0)
