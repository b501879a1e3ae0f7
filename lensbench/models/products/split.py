"""A head as sums of bfloat16 numbers, for products on matrix units that sum in float32.

A float32 number is b0 + b1 + b2, each of them bfloat16, exactly up to underflow (Henry, Tang and
Heinecke 2019, arXiv 1904.06376): 8 bits of significand each make the 24. The product of two such
parts is exact in float32, so that what a product of matrices loses is what float32 sums lose. A
head that was stored in bfloat16 is one part, and the states before it are three: three products,
which pay where bfloat16 is multiplied more than three times as fast as float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.devices import has_float64
from lensbench.errors import ModelError

N_PARTS = 3
_LARGEST = torch.finfo(torch.bfloat16).max  # above it a float32 number would round to infinity
_TILE = 4096  # tokens of the head that are split at once

# A product of parts i and j is 2^-8(i+j) of the whole: those beyond the second order are less than
# what float32 sums lose of two terms.
_ORDER = 2
# The relative error of an addition where matrix units cut off what does not fit in place of
# rounding it (Blanchard et al. 2020, SIAM J. Sci. Comput. 42(3)): twice float32's 2^-24.
_CUT = 2.0**-23
# Roundings of a logit besides one for each of its d_model terms, in the same unit: what is left out
# above (2), sums over products (3), bias, scale and soft cap (6), what it is compared with (2).
_MORE = 16
_SLACK = 1.05  # products beyond the first (2^-7 of it in all), and the rounding of this bound


def split(x: Float[Tensor, "*any"]) -> list[Float[Tensor, "*any"]]:
    """Three bfloat16 tensors that sum to `x` (float32 or half precision), the largest first.

    Exactly, where no part underflows: |x| >= 2^-110 or x = 0; else within 2^-134. Infinities and
    NaN are in the first part, whose others are 0 there.
    """
    rest, finite = x.float(), x.isfinite()
    parts = []
    for _ in range(N_PARTS):
        part = torch.where(finite, rest.clamp(-_LARGEST, _LARGEST), rest).bfloat16()
        parts.append(part)
        rest = torch.where(finite, rest - part.float(), 0.0)
    return parts


def summed_products(
    states: Sequence[Float[Tensor, "row d_model"]], head: Sequence[Float[Tensor, "d_model token"]]
) -> Float[Tensor, "row token"]:
    """Products of the parts of states and of a head, float32: the smallest are summed first."""
    terms: list[tuple[int, Tensor]] = []
    for j, part in enumerate(head):
        factors = _factors(j)
        stacked = torch.cat([states[i] for i in factors])  # one product for all of them
        made = _summed_in_float32(stacked, part).split(len(states[0]))
        terms += [(i + j, product) for i, product in zip(factors, made, strict=True)]
    total, *larger = (product for _, product in sorted(terms, key=lambda term: -term[0]))
    for product in larger:
        total += product
    return total


@dataclass(frozen=True)
class SplitHead:
    """The parts of a head's weights that are not all 0, and how far their products may be off.

    `longest` is the largest Euclidean length of a token's weights.
    """

    parts: Sequence[Float[Tensor, "d_model d_vocab"]]  # bfloat16, largest first
    longest: float

    @classmethod
    def of(cls, head: Float[Tensor, "d_model d_vocab"]) -> SplitHead:
        """Of any dtype. Takes 2 bytes a weight for each part; none where it is bfloat16 itself.

        Raises ModelError where this device or its torch cannot sum bfloat16 products in float32.
        """
        _require_sums(head.device)
        tiles = head.T.split(_TILE)
        longest = max(float(tile.double().norm(dim=1).max()) for tile in tiles)
        if head.dtype == torch.bfloat16:
            return cls((head,), longest)
        columns = list(zip(*(split(tile) for tile in tiles), strict=True))
        needed = [part for part in columns if any(bool(tile.any()) for tile in part)]
        return cls([torch.cat(part).T for part in needed or columns[:1]], longest)

    @property
    def n_products(self) -> int:
        """How many products of bfloat16 matrices make the logits: 3, 5 or 6."""
        return sum(len(_factors(j)) for j in range(len(self.parts)))

    @property
    def n_roundings(self) -> int:
        """How many times `rounding` a logit may be off.

        n of a sum of n terms in any order (Higham 2002, Accuracy and Stability of Numerical
        Algorithms, section 3.1: gamma_n), and what comes before and after it.
        """
        return int(self.parts[0].shape[0]) + _MORE

    def rounding(
        self, states: Float[Tensor, "row d_model"], largest_bias: float = 0.0
    ) -> Float[Tensor, " row"]:
        """What one rounding can do to a logit of each row, float64: u (|x| |w| + |b|), u = 2^-23.

        |x| |w| is at least the sum of absolute terms (Cauchy and Schwarz); 0 where all of them are.
        """
        length = states.double().norm(dim=-1)
        size = length * self.longest
        lost = torch.finfo(torch.float32).tiny * (1.0 + self.longest + length)  # by underflow
        terms = torch.where(size > 0, _CUT * size + lost, 0.0)
        return _SLACK * (terms + _CUT * largest_bias)


def _factors(part: int) -> range:
    """The parts of the states that this one of the head is multiplied with."""
    return range(min(N_PARTS, _ORDER - part + 1))


def _summed_in_float32(
    a: Float[Tensor, "row d_model"], b: Float[Tensor, "d_model token"]
) -> Float[Tensor, "row token"]:
    """The product of two bfloat16 matrices with float32 sums, which are never rounded.

    On a GPU by its matrix units. torch has no such product for a CPU: there the same parts are
    multiplied in float32, which gives the same numbers up to the order of sums, and no speed.
    """
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _require_sums(device: torch.device) -> None:
    remedy = "Read with products in float32 (--products float32)"
    if not has_float64(device):
        raise ModelError(f"{device.type} has no float64, which decides near ties. {remedy}.")
    if device.type == "cuda" and not hasattr(torch.ops.aten.mm, "dtype"):
        raise ModelError(
            f"torch {torch.__version__} cannot sum bfloat16 products in float32 on a GPU. "
            f"{remedy}, or install torch 2.8 or newer."
        )
