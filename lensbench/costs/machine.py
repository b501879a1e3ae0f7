"""How fast this machine is: a short measurement of products of a model's own shapes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch

from lensbench.costs.cost import Cost
from lensbench.costs.range import Range

_SECONDS = 0.15  # that each of two measurements goes on
_BYTES = 96 << 20  # of matrices that take turns: more than a processor's cache holds
_MOST = 64  # of them
_TOKENS = 512  # of a whole batch
# A job takes so many times as long as these products: norms, softmax, top tokens, tables and small
# calls come on top, and other programs.
SLOWER = (1.0, 2.5)


@dataclass(frozen=True)
class Speed:
    """Of bare products: operations a second of many rows, bytes of weights a second of one row.

    `d_model`: the width they were made of. `wall_s`: how long it took to find out.
    """

    d_model: int
    flops_per_s: float
    bytes_per_s: float
    wall_s: float
    slower: tuple[float, float] = SLOWER

    def seconds(self, cost: Cost, weights: int) -> Range:
        """How long work takes on a model of so many bytes, which every pass reads once."""
        bare = cost.flops / self.flops_per_s + cost.n_passes * weights / self.bytes_per_s
        return Range(*(bare * slower for slower in self.slower))


@cache
def speed(d_model: int, dtype: torch.dtype, device: str) -> Speed:
    """Of products with matrices [d_model, 4 d_model], which come from memory as weights do."""
    started = time.perf_counter()
    each = 4 * d_model * d_model * dtype.itemsize
    n = max(min(_BYTES // each, _MOST), 1)
    # Ones: their products take as long as others, and drawing numbers longer than all else here.
    matrices = torch.ones(n, d_model, 4 * d_model, dtype=dtype, device=device)
    many, one = (_a_second(matrices, rows, device) for rows in (_TOKENS, 1))
    flops = 8.0 * _TOKENS * d_model**2 * many
    return Speed(d_model, flops, each * one, time.perf_counter() - started)


def _a_second(matrices: torch.Tensor, n_rows: int, device: str) -> float:
    """How many products with one of the matrices are made in a second, each time with another."""
    rows = torch.ones(n_rows, matrices.shape[1], dtype=matrices.dtype, device=device)
    torch.mm(rows, matrices[0])
    count, began, took = 0, _now(device), 0.0
    while took < _SECONDS or count < 2:
        for matrix in matrices:
            torch.mm(rows, matrix)
        count += len(matrices)
        took = _now(device) - began
    return count / took


def _now(device: str) -> float:
    """The time at which all that was asked of the device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
