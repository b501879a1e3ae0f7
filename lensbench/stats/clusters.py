"""Clusters of things whose distances are known: the order of a dendrogram, and groups."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from lensbench.stats.resampling import Floats


def tree(distances: Float[np.ndarray, "thing thing"]) -> Float[np.ndarray, "merge 4"]:
    """SciPy's linkage, by average distance, leaves in their optimal order (Bar-Joseph et al. 2001).

    Args:
        distances: symmetric, 0 on the diagonal.
    """
    flat = squareform(distances, checks=False)
    merges: Floats = optimal_leaf_ordering(linkage(flat, "average"), flat)
    return merges


def leaves(merges: Float[np.ndarray, "merge 4"]) -> list[int]:
    """Things in the order in which a dendrogram has them: alike ones beside each other."""
    return [int(leaf) for leaf in leaves_list(merges)]


def groups(merges: Float[np.ndarray, "merge 4"], apart: float) -> Int[np.ndarray, " thing"]:
    """The number of each thing's cluster, from 1; clusters are at least `apart`, on average."""
    return np.asarray(fcluster(merges, apart, "distance"))
