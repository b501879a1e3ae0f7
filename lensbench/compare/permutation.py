"""Is a layer's change more than chance? Sign flips within prompts, corrected over layers.

Two null hypotheses, each about swapping labels within a prompt:

With a control. A prompt has a distance from the reference under the condition and another under
the control. Null: the two could be swapped within each prompt, at all its layers together, without
changing their joint distribution. A swap turns the sign of the prompt's contrast (condition minus
control), so the null distribution is that of the contrasts with random signs. The statistic is
Student's t, positive for more change under the condition, and its size counts; studentised, it is
also right for large samples when only the mean of the contrast is 0 (Janssen 1997).

Without a control. Null: the prompt's two vectors, of reference and condition, could be swapped. The
statistic is the part of ||sum of differences||^2 that pairs of prompts make up, over its standard
deviation under the null: large where prompts move in a common direction. A context of any kind
moves a residual stream, so this only says that something moved, not that the context mattered.

Between different prompts. Null: the prompts of both sides are drawn from one population, so the
labels of the sides could be dealt out again. The statistic is 1 - Pearson of the two mean vectors.

The correction over layers is Westfall & Young's step-down maxT (1993; algorithm of Ge, Dudoit &
Speed 2003): an adjusted p below a level keeps the chance of any false finding over all layers
below it, whatever the dependence between layers.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from lensbench.compare.similarity import pearson_of_means
from lensbench.stats.resampling import Seed
from lensbench.stats.significance import at_least, unit_sums

ROUNDING = 1e-6  # cosine distances of float32 activations mean nothing below this


def contrast_null(
    contrasts: Float[np.ndarray, "unit layer"], signs: Float[np.ndarray, "draw unit"]
) -> Float[np.ndarray, "draw layer"]:
    """Student's t of the contrasts' mean under each draw of signs, the true one first.

    NaN at a layer whose contrasts are all no more than rounding.
    """
    n, squares = len(contrasts), (contrasts**2).mean(0)
    mean = signs @ contrasts / n
    spread = np.maximum(squares - mean**2, 1e-18 * squares) / max(n - 1, 1)  # t stays finite
    with np.errstate(invalid="ignore"):
        statistic = mean / np.sqrt(spread)
    statistic[:, np.abs(contrasts).max(0) <= ROUNDING] = np.nan
    return statistic


def shift_null(
    differences: Float[np.ndarray, "layer prompt d"],
    codes: Int[np.ndarray, " prompt"],
    signs: Float[np.ndarray, "draw unit"],
) -> Float[np.ndarray, "draw layer"]:
    """The common direction of the differences under each draw of signs, the true one first.

    sum over pairs i != j of s_i s_j <D_i, D_j>, over the standard deviation that random signs give
    it. NaN at a layer where nothing differs, or with one unit.
    """
    columns = []
    for layer in differences:
        units = unit_sums(layer, codes)
        gram = units @ units.T
        np.fill_diagonal(gram, 0.0)
        deviation = np.sqrt(2.0 * (gram**2).sum())
        paired = ((signs @ gram) * signs).sum(1)
        columns.append(paired / deviation if deviation > 0 else np.full(len(signs), np.nan))
    return np.stack(columns, axis=1)


def swap_null(
    reference: Float[np.ndarray, "layer prompt d"],
    condition: Float[np.ndarray, "layer prompt d"],
    control: Float[np.ndarray, "layer prompt d"],
    signs: Float[np.ndarray, "draw prompt"],
) -> Float[np.ndarray, "draw layer"]:
    """How much less the condition's mean vector correlates with the reference's than the control's.

    For Pearson of mean vectors, which is no mean over prompts: a sign of -1 puts a prompt's vector
    of the control among those of the condition, and the other way round. Each layer is divided by
    its standard deviation over the draws, so that layers compare; NaN where all are rounding.
    """
    n = reference.shape[1]
    swapped = (1.0 - signs) / (2.0 * n)  # weights of the vectors that change places
    mine, theirs = (
        np.concatenate(pair, axis=1)
        for pair in ((1.0 / n - swapped, swapped), (swapped, 1.0 / n - swapped))
    )
    whole = np.full((1, n), 1.0 / n)
    columns = []
    for own, *sides in zip(reference, condition, control, strict=True):
        both = np.concatenate(sides)
        near, far = (pearson_of_means(whole, own, weights, both) for weights in (theirs, mine))
        columns.append(near - far)
    null = np.stack(columns, axis=1)
    deviation = np.sqrt((null**2).mean(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.abs(null).max(0) > ROUNDING, null / deviation, np.nan)


def label_null(
    reference: Float[np.ndarray, "layer a d"],
    condition: Float[np.ndarray, "layer b d"],
    codes: tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]],
    draws: int,
    seed: Seed,
) -> Float[np.ndarray, "draw layer"]:
    """1 - Pearson of the mean vectors when the labels of the sides are dealt out again.

    The true labels first; linked prompts (of one code) keep together. Each layer is in standard
    deviations over the draws, from their mean, so that layers compare; NaN where all are rounding.
    """
    units = np.concatenate([codes[0], codes[0].max() + 1 + codes[1]])
    first = np.arange(units.max() + 1) <= codes[0].max()
    rng = np.random.default_rng(seed)
    dealt = np.stack([first, *(rng.permutation(first) for _ in range(draws))])[:, units]
    weights = [side / side.sum(1, keepdims=True) for side in (dealt, ~dealt)]
    columns = []
    for layer in zip(reference, condition, strict=True):
        both = np.concatenate(layer)
        columns.append(1.0 - pearson_of_means(weights[0], both, weights[1], both))
    null = np.stack(columns, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        standard = (null - null.mean(0)) / null.std(0)
    return np.where(null.max(0) > ROUNDING, standard, np.nan)


def adjusted_p_values(null: Float[np.ndarray, "draw layer"]) -> Float[np.ndarray, " layer"]:
    """Westfall & Young's step-down maxT over the layers; NaN where there is no statistic."""
    adjusted = np.full(null.shape[1], np.nan)
    tested = np.flatnonzero(~np.isnan(null[0]))
    order = tested[np.argsort(-null[0, tested], kind="stable")]  # largest first
    ordered = np.where(np.isnan(null[:, order]), -np.inf, null[:, order])
    largest = np.maximum.accumulate(ordered[:, ::-1], axis=1)[:, ::-1]  # of it and those below
    shares = at_least(largest, null[0, order]).mean(0)
    adjusted[order] = np.maximum.accumulate(shares)
    return adjusted
