"""Attention over layers: what reaches a token from the input, block by block.

Abnar & Zuidema (2020, arXiv 2005.00928). A block mixes tokens by the mean pattern of its heads, and
half of each token comes past it on the residual stream: (A + I) / 2, rows summing to 1. The weights
of MLPs, norms and what heads write are left out, so both measures say where a token could come
from, not what it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
from jaxtyping import Float

Mixing = Float[np.ndarray, "query key"]


def mixing(patterns: Float[np.ndarray, "head query key"]) -> Mixing:
    """How a block mixes tokens; a row that is NaN (nothing moves) or empty is the token alone."""
    mean = np.nan_to_num(np.asarray(patterns, dtype=np.float64)).mean(0)
    total = mean.sum(-1, keepdims=True)
    shares = np.divide(mean, total, out=np.eye(len(mean)), where=total > 0)
    mixed: Mixing = (shares + np.eye(len(mean))) / 2
    return mixed


def rollout(blocks: Sequence[Mixing]) -> Float[np.ndarray, "block query key"]:
    """Attention rollout: after each block, the share that each input token has in each token."""
    found, so_far = [], np.eye(len(blocks[0]))
    for own in blocks:
        so_far = own @ so_far
        found.append(so_far)
    return np.stack(found)


def paths(blocks: Sequence[Mixing], query: int) -> Float[np.ndarray, "block query key"]:
    """What of a token's rollout goes over each edge of each block: from a token to one before.

    The sum over a block is 1; over the first block's queries it is the rollout of `query`.
    """
    here = np.eye(len(blocks[0]))[query]
    found = []
    for own in reversed(blocks):
        found.append(here[:, None] * own)
        here = found[-1].sum(0)
    return np.stack(found[::-1])


def max_flow(blocks: Sequence[Mixing], query: int) -> Float[np.ndarray, " key"]:
    """Attention flow: the most that can reach a token behind the last block from each input token.

    Edges hold at most their weight in each block's mixing; each input token is a maximum flow of
    its own (networkx), so that they do not sum to 1.
    """
    graph = nx.DiGraph()
    for layer, own in enumerate(blocks):
        for above, below in zip(*np.nonzero(own), strict=True):
            edge = (layer + 1, int(above)), (layer, int(below))
            graph.add_edge(*edge, capacity=float(own[above, below]))
    source, n = (len(blocks), query), len(blocks[0])
    reached = nx.descendants(graph, source)
    graph = graph.subgraph({source, *reached})
    ends = [(0, key) for key in range(n)]
    return np.array(
        [nx.maximum_flow_value(graph, source, end) if end in reached else 0.0 for end in ends]
    )
