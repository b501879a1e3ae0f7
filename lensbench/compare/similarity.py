"""How alike two sets of activations are: five measures over the same prompts.

`x` and `y` hold one vector for each prompt, in the same order; Pearson of mean vectors also takes
different prompts on both sides. A measure first turns each side into a representation (`prepare`),
then compares two of those (`compare`), so a map of all layers against all prepares each layer once.
All arithmetic is in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import qr, svdvals
from scipy.spatial.distance import pdist
from scipy.stats import rankdata

from lensbench.records.schema.correlation import SIMILARITY_ENDS
from lensbench.stats.resampling import Floats

_NOTHING = 1e-12  # what is left of a vector after centring, relative to it: rounding

CONSTANT = "constant activations: they do not vary"


@dataclass(frozen=True)
class Measure:
    """One way to compare `x` with `y`; in words: `SIMILARITY_MEASURES` in `records.schema`."""

    name: str
    prepare: Callable[[Floats], Floats]  # one side; NaN in it where nothing varies
    compare: Callable[[Floats, Floats], float]
    least: int  # prompts that it needs
    same_width: bool = False  # whether both sides need the same dimensions
    is_distance: bool = False
    own_centre: bool = False  # centres each side by itself: centring before changes nothing
    paired: bool = True  # whether both sides must hold the same prompts

    def change(self, value: float) -> float:
        """The value as a change: 0 is the same, larger is further apart."""
        return value if self.is_distance else 1.0 - value


def mean_vector(x: Float[np.ndarray, "prompt d"]) -> Float[np.ndarray, " d"]:
    """The mean over prompts, centred over its dimensions, of length 1: Pearson's ingredient."""
    mean = x.mean(0)
    return _unit(mean - mean.mean(), float(np.linalg.norm(mean)))


def pearson_of_means(
    weights_x: Float[np.ndarray, "draw a"],
    x: Float[np.ndarray, "a d"],
    weights_y: Float[np.ndarray, "draw b"],
    y: Float[np.ndarray, "b d"],
) -> Float[np.ndarray, " draw"]:
    """Pearson of two weighted mean vectors, draw by draw; NaN where one does not vary.

    From the Gram matrices of the vectors centred over dimensions: no draw's mean vector is made.
    """
    a, b = (v - v.mean(-1, keepdims=True) for v in (_floats(x), _floats(y)))
    squares_x, squares_y = (
        ((weights @ (v @ v.T)) * weights).sum(1) for weights, v in ((weights_x, a), (weights_y, b))
    )
    products = ((weights_x @ (a @ b.T)) * weights_y).sum(1)
    least_x, least_y = ((_NOTHING * np.abs(v).max()) ** 2 for v in (x, y))
    constant = (squares_x <= least_x) | (squares_y <= least_y)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.clip(products / np.sqrt(squares_x * squares_y), -1, 1)
    return np.where(constant, np.nan, values)


def unit_rows(x: Float[np.ndarray, "*layer prompt d"]) -> Float[np.ndarray, "*layer prompt d"]:
    """Each prompt's vector at length 1; NaN where it is zero."""
    return _unit(x, np.linalg.norm(x, axis=-1))


def u_centred(x: Float[np.ndarray, "prompt d"]) -> Float[np.ndarray, " pair"]:
    """The Gram matrix off its diagonal, U-centred (Székely & Rizzo 2014), of length 1.

    The inner product of two of them is the unbiased HSIC of Song et al. (2012, "Feature selection
    via dependence maximization", JMLR 13), each divided by its root with itself: debiased CKA.
    """
    n = len(x)
    gram = _gram(x)
    scale = float(np.linalg.norm(gram))
    np.fill_diagonal(gram, 0.0)
    rows = gram.sum(0) / (n - 2)
    gram += rows.sum() / (n - 1) - rows[:, None] - rows[None, :]
    upper = gram[np.triu_indices(n, 1)]
    return _unit(upper, scale)


def double_centred(x: Float[np.ndarray, "prompt d"]) -> Float[np.ndarray, " pair"]:
    """The Gram matrix of the centred prompts, all of it, of length 1: what CKA compares."""
    return _unit(_gram(x).ravel(), _total(x))


def ranked_dissimilarities(x: Float[np.ndarray, "prompt d"]) -> Float[np.ndarray, " pair"]:
    """Ranks of 1 - Pearson between the prompts' vectors, centred, of length 1: RSA's ingredient.

    The inner product of two of them is Spearman's correlation, ties included. NaN where a prompt's
    vector has no variance over its dimensions, or where all pairs are equally far apart.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        distances = pdist(x, "correlation")
    if np.isnan(distances).any() or np.ptp(distances) <= _NOTHING:
        return np.full(len(distances), np.nan)
    ranks = rankdata(distances)
    return _unit(ranks - ranks.mean(), float(np.linalg.norm(ranks)))


def own_coordinates(x: Float[np.ndarray, "prompt d"]) -> Float[np.ndarray, "prompt k"]:
    """The centred prompts at Frobenius norm 1, in a basis of their own span (k <= prompts).

    A rotation: every distance and angle among the prompts is as before.
    """
    centred = x - x.mean(0)
    if centred.shape[1] > centred.shape[0]:
        (upper,) = qr(centred.T, mode="r", check_finite=False)
        centred = upper[: len(x)].T
    flat = _unit(centred.ravel(), _total(x) ** 0.5)
    return flat.reshape(centred.shape)


def procrustes_distance(a: Floats, b: Floats) -> float:
    """||a||^2 + ||b||^2 - 2 ||a^T b||_*, for norm 1 on both sides: 0 to 2."""
    if np.isnan(a).any() or np.isnan(b).any():
        return np.nan
    return float(max(2.0 - 2.0 * svdvals(a.T @ b, check_finite=False).sum(), 0.0))


def _inner(a: Floats, b: Floats) -> float:
    return float(np.vdot(a, b))


def _mean_of_rows(a: Floats, b: Floats) -> float:
    return float((a * b).sum(-1).mean())


def _gram(x: Floats) -> Floats:
    centred = x - x.mean(0)  # also what keeps a large common offset out of the rounding
    return centred @ centred.T


def _total(x: Floats) -> float:
    return float((x * x).sum())


def _unit(values: Floats, scale: float | Floats) -> Floats:
    """At length 1 along the last axis; NaN where the length is only rounding of `scale`."""
    length = np.linalg.norm(values, axis=-1)
    length = np.where(length > _NOTHING * np.asarray(scale), length, np.nan)
    return values / length[..., None]


# Pearson, as published studies of layer correlation take it; CKA, Kornblith et al. 2019
# ("Similarity of neural network representations revisited"), which with fewer prompts than
# dimensions tends to 1 whatever is compared, so `cka` is debiased (Murphy, Zylberberg & Fyshe 2024)
# and `cka_biased` is for comparison; RSA, Kriegeskorte et al. 2008; Procrustes, as normalised by
# Ding, Denain & Steinhardt 2021.
MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("pearson", mean_vector, _inner, least=1, same_width=True, paired=False),
        Measure("cosine", unit_rows, _mean_of_rows, least=1, same_width=True),
        Measure("cka", u_centred, _inner, least=4, own_centre=True),
        Measure("cka_biased", double_centred, _inner, least=3, own_centre=True),
        Measure("rsa", ranked_dissimilarities, _inner, least=4),
        Measure(
            "procrustes",
            own_coordinates,
            procrustes_distance,
            least=3,
            is_distance=True,
            own_centre=True,
        ),
    )
}


def compared(measure: Measure, a: Floats, b: Floats) -> float:
    """Two prepared sides compared; rounding beyond the measure's range is cut off.

    NaN where one of them does not vary.
    """
    return float(np.clip(measure.compare(a, b), *SIMILARITY_ENDS[measure.name]))


def why_not(measure: Measure, x: Floats, y: Floats) -> str | None:
    """Why this measure cannot be taken, or None."""
    if measure.paired and len(x) != len(y):
        return f"{len(x)} prompts on one side, {len(y)} on the other"
    if (least := min(len(x), len(y))) < measure.least:
        return f"{least} prompt(s): {measure.name} needs {measure.least}"
    if measure.same_width and x.shape[-1] != y.shape[-1]:
        return f"{x.shape[-1]} dimensions on one side, {y.shape[-1]} on the other"
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return "NaN or infinite activations"
    return None


def prepared(measure: Measure, layers: Sequence[Floats]) -> list[Floats]:
    """Every layer's representation."""
    return [measure.prepare(_floats(layer)) for layer in layers]


def _floats(x: Floats) -> Floats:
    return np.asarray(x, dtype=np.float64)
