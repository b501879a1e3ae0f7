"""What a method costs: seconds, and memory beyond what the process held before."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from lensbench.checkpoints.stored.heap import give_back
from lensbench.records.manifest import peak_memory_bytes

_CLEAR = Path("/proc/self/clear_refs")


@dataclass
class Spent:
    """Of one method: seconds of its learning (None: nothing is learnt) and of the test, and memory.

    `memory_bytes`: the highest use less what the process held before the method's model was
    loaded; of an accelerator where there is one. None where the system does not tell.
    """

    learn_wall_s: float | None = None
    test_wall_s: float = 0.0
    memory_bytes: int | None = None

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Everything up to a classifier that is ready, but not the loading of a model."""
        started = time.perf_counter()
        yield
        self.learn_wall_s = time.perf_counter() - started

    @contextmanager
    def testing(self) -> Iterator[None]:
        """Telling every tested text's label."""
        started = time.perf_counter()
        yield
        self.test_wall_s = time.perf_counter() - started


@contextmanager
def spending(device: str) -> Iterator[Spent]:
    """Measure what is spent inside."""
    gc.collect()
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before: int | None = torch.cuda.memory_allocated(device)
    else:
        give_back()  # freed memory that the C library keeps would hide what is used anew
        before = psutil.Process().memory_info().rss if _reset() else None
    spent = Spent()
    yield spent
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else peak_memory_bytes()
    if before is not None:
        spent.memory_bytes = max(peak - before, 0)


def _reset() -> bool:
    """Set the kernel's high-water mark to what is held now (proc(5)); False where it cannot be."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True
