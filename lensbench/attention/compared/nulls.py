"""Conditions under which a head's scores are what chance gives: where to look, and what to read.

The third one is a model: `models.untrained`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.stats.resampling import Seed


def random_keys(n: int, seed: Seed, window: int | None = None) -> Int[Tensor, "query key"]:
    """Of each of `n` queries, the keys that it may look at in random order; others stay in place.

    Args:
        window: how many keys a query may look at, itself the last; None for all up to itself.
    """
    places = np.arange(n)
    back = places[:, None] - places[None, :]  # [query, key]
    allowed = (back >= 0) & (back < (n if window is None else window))
    noise = np.random.default_rng(seed).random((n, n))
    drawn = np.argsort(np.where(allowed, noise, 2.0), axis=1, kind="stable")
    there = np.argsort(~allowed, axis=1, kind="stable")
    keys = np.empty((n, n), dtype=np.int64)
    np.put_along_axis(keys, there, drawn, axis=1)
    return torch.from_numpy(keys)


def permuted(
    pattern: Float[Tensor, "head query key"], keys: Int[Tensor, "query key"]
) -> Float[Tensor, "head query key"]:
    """Random attention of equal entropy: each row's weights, dealt out again among its keys.

    What a head weighs and how sharply stays, which key gets it is chance: rows sum to 1, nothing
    looks ahead, and every row's entropy is the same. So a sharp head is compared with a sharp one;
    against even attention any sharp head would differ. The expected score is the share of keys that
    the score counts. Of a head that looks at random the pattern and this one are exchangeable.

    Args:
        keys: as `random_keys` draws them, the same for every head and block of a prompt.
    """
    return pattern.gather(-1, keys.to(pattern.device).expand_as(pattern))


def shuffled(token_ids: Sequence[int], seed: Seed) -> list[int]:
    """The same tokens in random order, but for the first, which is the sink, and often BOS."""
    first, *rest = token_ids
    return [int(first), *np.random.default_rng(seed).permutation(rest).astype(int).tolist()]
