"""Vectors in the plane: by principal components, and by UMAP where that is installed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lensbench.errors import packages_of

_NEIGHBOURS = 15  # umap-learn's own default
LEAST = 4  # texts of a UMAP


class Plane(NamedTuple):
    """Places in the plane, and the share of the variance along each axis, 0..1."""

    places: Float[np.ndarray, "text 2"]
    explained: tuple[float, float]


def pca(vectors: Float[np.ndarray, "text dimension"]) -> Plane:
    """The first two principal components (Pearson 1901) of the vectors, their mean taken off.

    Each axis points so that its largest weight is positive. Of vectors that are all alike every
    place is 0 and nothing is explained.
    """
    centred = np.asarray(vectors, dtype=np.float64)
    centred = centred - centred.mean(0)
    u, s, axes = np.linalg.svd(centred, full_matrices=False)
    kept = min(2, len(s))
    signs = np.sign(axes[np.arange(kept), np.abs(axes[:kept]).argmax(-1)])
    places = np.zeros((len(centred), 2))
    places[:, :kept] = u[:, :kept] * s[:kept] * signs
    total = float((s**2).sum())
    shares = [float(one**2) / total if total > 0 else 0.0 for one in s[:kept]] + [0.0] * (2 - kept)
    return Plane(places, (shares[0], shares[1]))


def umap(
    vectors: Float[np.ndarray, "text dimension"], seed: int = 0
) -> Float[np.ndarray, "text 2"]:
    """The places that umap-learn finds (McInnes et al. 2018, arXiv 1802.03426), by cosine.

    One thread and a seed: the same places again on the same machine. Raises MissingExtraError.
    """
    with packages_of("embed", "umap"):
        import umap as library
    reducer = library.UMAP(
        n_neighbors=min(_NEIGHBOURS, len(vectors) - 1),
        metric="cosine",
        random_state=seed,
        n_jobs=1,
        init="spectral" if len(vectors) > _NEIGHBOURS else "random",
    )
    return np.asarray(reducer.fit_transform(np.asarray(vectors, np.float32)), np.float64)
