"""Composition: how much of what one head writes another one reads, as query, key or value.

Elhage et al. 2021 ("A mathematical framework for transformer circuits", section "composition"): the
Frobenius norm of the product of two circuits over the product of their norms,

    Q: ||W_OV W_QK|| / (||W_OV|| ||W_QK||)    K: with W_QK transposed    V: with W_OV of the second

here for row vectors, W_QK = W_Q W_K^T and W_OV = W_V W_O, norms folded in (`weights`), so that what
a norm takes away counts as not read. 0 to 1. Matrices are kept as products of [d_model, d_head]: a
norm of A M B^T is that of R_A M R_B^T, with R of the QR decomposition.

Random heads of the same shape have 1 / sqrt(d_model), for any d_head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.attention.circuits.weights import HeadWeights
from lensbench.stats.resampling import CONFIDENCE

MODES = ("q", "k", "v")
N_RANDOM = 500
SEED = 0


@dataclass(frozen=True)
class Composed:
    """Ratios of every head of an earlier block with every head of a later one."""

    block_a: int
    block_b: int
    ratio: dict[str, Float[Tensor, "head_a head_b"]]  # by mode


@dataclass(frozen=True)
class _Reduced:
    """A block's circuits, the side that is not multiplied reduced to d_head dimensions."""

    block: int
    writes: Float[Tensor, "head k d_model"]
    reads: dict[str, Float[Tensor, "head d_model k"]]


def compositions(heads: Iterator[HeadWeights]) -> Iterator[Composed]:
    """Of every pair of blocks, the earlier one first; heads of one block do not read each other.

    Memory: four matrices [d_model, d_head] of every head.
    """
    earlier: list[_Reduced] = []
    for weights in heads:
        own = _reduced(weights)
        for other in earlier:
            yield Composed(
                other.block, own.block, {mode: _ratio(other, own, mode) for mode in MODES}
            )
        earlier.append(own)


def _reduced(heads: HeadWeights) -> _Reduced:
    """With every circuit divided by its norm."""
    reads = {
        "q": heads.q @ _triangle(heads.k).mT,
        "k": heads.k @ _triangle(heads.q).mT,
        "v": heads.v @ _triangle(heads.o.mT).mT,
    }
    return _Reduced(
        heads.block,
        _unit(_triangle(heads.v) @ heads.o),
        {mode: _unit(matrix) for mode, matrix in reads.items()},
    )


def _triangle(matrix: Float[Tensor, "head d_model k"]) -> Float[Tensor, "head k k"]:
    """R of A = Q R: ||A M|| = ||R M|| for every M."""
    return torch.linalg.qr(matrix, mode="r").R


def _unit(matrix: Float[Tensor, "head m n"]) -> Float[Tensor, "head m n"]:
    return matrix / torch.linalg.matrix_norm(matrix, keepdim=True)  # NaN of a head that is zero


def _ratio(a: _Reduced, b: _Reduced, mode: str) -> Float[Tensor, "head_a head_b"]:
    reads = b.reads[mode]
    return torch.stack([torch.linalg.matrix_norm(one @ reads) for one in a.writes])


def random_ratios(
    d_model: int, d_head: int, n: int = N_RANDOM, seed: int = SEED
) -> Float[Tensor, " draw"]:
    """Of pairs of heads of this shape whose weights are drawn at random; any mode has the same."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    found = []
    for _ in range(n):
        q, k, v = (drawn(1, d_model, d_head) for _ in range(3))
        a, b = (_reduced(HeadWeights(i, q, k, v, drawn(1, d_head, d_model))) for i in range(2))
        found.append(_ratio(a, b, "q")[0, 0])
    return torch.stack(found)


def interval(draws: Float[Tensor, " draw"]) -> tuple[float, float]:
    """The middle 95 % of them."""
    tail = (1 - CONFIDENCE) / 2
    low, high = draws.quantile(torch.tensor([tail, 1 - tail], dtype=draws.dtype)).tolist()
    return low, high
