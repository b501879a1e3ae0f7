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
from lensbench.checkpoints.stored.heap import give_back
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
    reads: dict[str, Float[Tensor, "d_model head k"]]


def compositions(heads: Iterator[HeadWeights]) -> Iterator[Composed]:
    """Of every pair of blocks, the earlier one first; heads of one block do not read each other.

    Memory: one matrix [d_model, d_head] of every head, what it writes; all else of a block at a
    time.
    """
    earlier: list[tuple[int, Float[Tensor, "head k d_model"]]] = []
    for own in map(_reduced, heads):
        for block, writes in earlier:
            ratios = {mode: _ratio(writes, own.reads[mode]) for mode in MODES}
            yield Composed(block, own.block, ratios)
        earlier.append((own.block, own.writes))
        give_back()  # what was freed lies between what is kept: as much again, block by block


def _reduced(heads: HeadWeights) -> _Reduced:
    """With every circuit divided by its norm."""
    return _Reduced(
        heads.block,
        _unit(_triangle(heads.v) @ heads.o),
        {
            "q": _read(heads.q, heads.k),
            "k": _read(heads.k, heads.q),
            "v": _read(heads.v, heads.o.mT),
        },
    )


def _read(
    matrix: Float[Tensor, "head d_model k"], other: Float[Tensor, "head d_model k"]
) -> Float[Tensor, "d_model head k"]:
    reduced = matrix @ _triangle(other).mT
    return _unit(reduced).transpose(0, 1).contiguous()


def _triangle(matrix: Float[Tensor, "head d_model k"]) -> Float[Tensor, "head k k"]:
    """R of A = Q R: ||A M|| = ||R M|| for every M."""
    return torch.linalg.qr(matrix, mode="r").R


def _unit(matrix: Float[Tensor, "head m n"]) -> Float[Tensor, "head m n"]:
    return matrix / torch.linalg.matrix_norm(matrix, keepdim=True)  # NaN of a head that is zero


def _ratio(
    writes: Float[Tensor, "head_a k d_model"], reads: Float[Tensor, "d_model head_b k"]
) -> Float[Tensor, "head_a head_b"]:
    """Norms of the products of all heads with all others: of two matrices, in blocks."""
    products = writes.flatten(0, 1) @ reads.flatten(1)
    blocks = products.unflatten(0, writes.shape[:2]).unflatten(2, reads.shape[1:])
    return torch.linalg.vector_norm(blocks, dim=(1, 3))


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
        found.append(_ratio(a.writes, b.reads["q"])[0, 0])
    return torch.stack(found)


def interval(draws: Float[Tensor, " draw"]) -> tuple[float, float]:
    """The middle 95 % of them."""
    tail = (1 - CONFIDENCE) / 2
    low, high = draws.quantile(torch.tensor([tail, 1 - tail], dtype=draws.dtype)).tolist()
    return low, high
