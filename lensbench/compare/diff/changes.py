"""Two readings of the same prompts, layer by layer: what changed, by how much, from where on.

A change is always the second reading minus the first. Equal numbers give exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lensbench.compare.permutation import (
    adjusted_p_values,
    contrast_null,
)
from lensbench.stats.resampling import codes_of
from lensbench.stats.significance import sign_flips, unit_sums

RESAMPLES = 9999  # draws of signs; all of them where there are no more
SEED = 0


def rank_change(
    a: Float[np.ndarray, "*cell"], b: Float[np.ndarray, "*cell"]
) -> Float[np.ndarray, "*cell"]:
    """log2(b / a) of two ranks (1 = best): +1 is twice as far down. NaN where a rank is missing.

    Ranks span five powers of ten between the embedding and the output, so that their difference
    would be decided by the layers at which nobody reads an answer; a ratio weighs all layers alike.
    """
    return np.log2(b) - np.log2(a)


def cosine(
    a: Float[np.ndarray, "*cell d"], b: Float[np.ndarray, "*cell d"]
) -> Float[np.ndarray, "*cell"]:
    """Cosine of two vectors, -1..1; exactly 1 for equal ones, NaN where one has no length.

    By 1 - ||u - v||^2 / 2 of the unit vectors, which loses nothing where they nearly agree.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = (x.astype(np.float64) / _norm(x)[..., None] for x in (a, b))
    return np.asarray(1.0 - ((u - v) ** 2).sum(-1) / 2.0)


def relative_change(
    a: Float[np.ndarray, "*cell d"], b: Float[np.ndarray, "*cell d"]
) -> Float[np.ndarray, "*cell"]:
    """||b - a|| / ||a||, 0..inf; NaN where a has no length."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return _norm(b.astype(np.float64) - a) / np.where(_norm(a) > 0, _norm(a), np.nan)


def _norm(x: Float[np.ndarray, "*cell d"]) -> Float[np.ndarray, "*cell"]:
    return np.asarray(np.linalg.norm(x.astype(np.float64), axis=-1))


def at_depths(
    values: Float[np.ndarray, "prompt layer"],
    own: Float[np.ndarray, " layer"],
    depths: Float[np.ndarray, " depth"],
) -> Float[np.ndarray, "prompt depth"]:
    """Each prompt's curve at other relative depths, linear between its own layers."""
    return np.array([np.interp(depths, own, row) for row in values]).reshape(-1, len(depths))


def adjusted_p(
    changes: Float[np.ndarray, "prompt layer"], groups: Sequence[object]
) -> Float[np.ndarray, " layer"]:
    """Two-sided p of the mean change at each layer, adjusted over layers.

    Null: the two readings could be swapped within each group of prompts (relation), at all layers
    together; a swap turns the sign of the group's summed change. Student's t over groups,
    Westfall & Young's step-down maxT over layers, every draw of signs or 9,999 (see
    `permutation`). With k groups no p is below 2 / 2^k. Prompts with a NaN are skipped. NaN where
    nothing changes by more than rounding, and everywhere with fewer than two groups.
    """
    whole = ~np.isnan(changes).any(axis=1)
    codes = codes_of([group for group, keep in zip(groups, whole, strict=True) if keep], 0)
    if len(np.unique(codes)) < 2:
        return np.full(changes.shape[1], np.nan)
    sums = unit_sums(changes[whole], codes)
    null = contrast_null(sums, sign_flips(len(sums), RESAMPLES, SEED))
    return adjusted_p_values(np.abs(null))
