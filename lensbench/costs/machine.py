"""How fast this machine is: a short measurement of products of a model's own shapes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from statistics import mean

import torch

from lensbench.costs.cost import Cost
from lensbench.costs.range import Range

_ROUNDS, _SECONDS = 5, 0.04  # of each of two measurements, and that a round goes on at least
_BYTES = 96 << 20  # of matrices that take turns: more than a processor's cache holds
_MOST = 64  # of them
_TOKENS = 512  # of a whole batch
_CLOCKED = 8  # products of one row between two looks at the clock
# A job takes so many times as long as these products: norms, softmax, top tokens, tables and small
# calls come on top, and other programs.
SLOWER = (1.0, 2.5)


@dataclass(frozen=True)
class Speed:
    """Of bare products: operations a second of many rows, bytes of weights a second of one row.

    `d_model`: the width they were made of. `noise`: of the times of some rounds, the shortest and
    the longest, as multiples of their mean: other programs come and go. `wall_s`: how long it took
    to find out.
    """

    d_model: int
    n_threads: int  # of each worker
    flops_per_s: float
    bytes_per_s: float
    noise: tuple[float, float]
    wall_s: float
    slower: tuple[float, float] = SLOWER
    n_workers: int = 1  # at once, whose rates these are together

    def seconds(self, cost: Cost, weights: int) -> Range:
        """How long work takes on a model of so many bytes, which every pass reads once."""
        bare = cost.flops / self.flops_per_s + cost.n_passes * weights / self.bytes_per_s
        ends = zip(self.slower, self.noise, strict=True)
        return Range(*(bare * slower * noise for slower, noise in ends))


def speed(d_model: int, dtype: torch.dtype, device: str, n_workers: int = 1) -> Speed:
    """Of products with matrices [d_model, 4 d_model], which come from memory as weights do.

    With the threads that this process sums with now; of several workers, so many at once, what they
    do together: they share cores and memory.
    """
    return _speed(d_model, dtype, device, torch.get_num_threads(), n_workers)


@cache
def _speed(d_model: int, dtype: torch.dtype, device: str, n_threads: int, n_workers: int) -> Speed:
    started = time.perf_counter()
    each = 4 * d_model * d_model * dtype.itemsize
    n = max(min(_BYTES // each, _MOST), 1)
    # Ones: their products take as long as others, and drawing numbers longer than all else here.
    matrices = torch.ones(n, d_model, 4 * d_model, dtype=dtype, device=device)
    how = device, n_threads, n_workers
    many, one = (_times(matrices, rows, *how) for rows in (_TOKENS, 1))
    flops, n_bytes = 8.0 * _TOKENS * d_model**2 / mean(many), each / mean(one)
    noise = min(map(_least, (many, one))), max(map(_most, (many, one)))
    took = time.perf_counter() - started
    return Speed(d_model, n_threads, flops, n_bytes, noise, took, n_workers=n_workers)


def _least(times: Sequence[float]) -> float:
    return min(times) / mean(times)


def _most(times: Sequence[float]) -> float:
    return max(times) / mean(times)


def _times(
    matrices: torch.Tensor, n_rows: int, device: str, n_threads: int, n_workers: int
) -> list[float]:
    """Of some rounds the seconds that a product takes, each time with another of the matrices.

    Of several workers the seconds in which one more is there from any of them.
    """
    rows = torch.ones(n_rows, matrices.shape[1], dtype=matrices.dtype, device=device)
    torch.mm(rows, matrices[0])

    def one_worker(_: int) -> float:
        torch.set_num_threads(n_threads)  # a thread begins with what the system says
        return _round(matrices, rows, device)

    with ThreadPoolExecutor(n_workers) as workers:
        rounds = [list(workers.map(one_worker, range(n_workers))) for _ in range(_ROUNDS)]
    return [1 / sum(1 / took for took in one) for one in rounds]


def _round(matrices: torch.Tensor, rows: torch.Tensor, device: str) -> float:
    count, began, took = 0, _now(device), 0.0
    for matrix in cycle(matrices):
        torch.mm(rows, matrix)
        count += 1
        if count % _CLOCKED == 0 or rows.shape[0] > 1:
            took = _now(device) - began
        if took >= _SECONDS:
            break
    return took / count


def _now(device: str) -> float:
    """The time at which all that was asked of the device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
