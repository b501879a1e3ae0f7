"""Redundancy: how many heads can go at no loss, the least needed first.

The order is greedy: by what each head's own ablation costs, on one half of the prompts. What is
lost when the first so many of it go together is measured on the other half, since an order is good
on the prompts that made it. Two heads that stand in for each other cost nothing one by one: that is
what the measured curve shows and the sum of single costs does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lensbench.attention.causal.ablation import Head, Means, ablated, nested
from lensbench.models.model import LensModel

N_SIZES = 16


@dataclass(frozen=True)
class Redundancy:
    """`change[p, i]`: nats per token lost in a prompt without the first `sizes[i]` of `order`."""

    order: list[Head]
    sizes: list[int]
    prompts: list[int]  # of those given, that it is measured on
    change: Float[np.ndarray, "prompt size"]


def halves(n_prompts: int) -> tuple[list[int], list[int]]:
    """Every other prompt."""
    return list(range(0, n_prompts, 2)), list(range(1, n_prompts, 2))


def sizes_of(n_heads: int, n_sizes: int = N_SIZES) -> list[int]:
    """So many numbers of heads, about evenly in the logarithm, from one to all but one."""
    most = max(n_heads - 1, 1)
    return sorted({round(float(size)) for size in np.geomspace(1, most, n_sizes)})


def redundancy(
    model: LensModel,
    token_ids: Sequence[Sequence[int]],
    heads: Sequence[Head],
    change: Float[np.ndarray, "prompt head"],
    means: Means | None = None,
    batch_tokens: int = 512,
) -> Redundancy:
    """The measured curve, from the single ablations of `heads` on all prompts.

    Args:
        change: nats per token, of each prompt without each of `heads` (`ablation.Losses.change`).
        means: as for `ablation.ablated`.
    """
    first, second = halves(len(token_ids))
    ranked = np.argsort(change[first].mean(0), kind="stable")
    order, sizes = [heads[i] for i in ranked], sizes_of(len(heads))
    held = [token_ids[i] for i in second]
    losses = ablated(model, held, list(nested(order, sizes)), None, batch_tokens, means)
    return Redundancy(order, sizes, second, losses.change)
