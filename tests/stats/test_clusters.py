"""Clusters by hand."""

from __future__ import annotations

import numpy as np

from lensbench.stats.clusters import groups, leaves, tree

PLACES = np.array([0.0, 10.0, 1.0, 10.5, 30.0])
DISTANCES = np.abs(PLACES[:, None] - PLACES[None])


def test_alike_things_stand_beside_each_other() -> None:
    order = leaves(tree(DISTANCES)) if PLACES.size else []
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert list(PLACES[order]) in (sorted(PLACES), sorted(PLACES)[::-1])


def test_clusters_are_at_least_so_far_apart() -> None:
    found = groups(tree(DISTANCES), 5.0)
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert len(set(found)) == 3
    assert len(set(groups(tree(DISTANCES), 100.0))) == 1
    # average distance of {0, 1} and {10, 10.5}: 9.75
    assert len(set(groups(tree(DISTANCES), 9.7))) == 3
    assert len(set(groups(tree(DISTANCES), 9.8))) == 2
