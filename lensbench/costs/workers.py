"""Workers as a plan sees them: how many will do a record's jobs, and what they cost besides."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass

from lensbench.checkpoints.devices import gb
from lensbench.cluster.placement import BESIDE_BYTES, n_fitting
from lensbench.context import holding
from lensbench.costs.range import Range

# Seconds that a record takes longer, but for its jobs (reports/bench/workers.md): those of one
# worker beside those of one process, and what two take to start and to load. Until then this
# process does the jobs alone, so that of a short record they do few or none.
STARTING_S = Range(2.0, 12.0)

_asked: ContextVar[int] = ContextVar("workers", default=0)


def planned_for(n_workers: int | None) -> AbstractContextManager[int]:
    """Inside, records are planned to be done by so many workers; None: by this process alone."""
    return holding(_asked, n_workers or 0)


@dataclass(frozen=True)
class Crew:
    """Workers that will do a record's jobs: `n` of those that were `asked` for; 0 without any.

    `each_bytes`: of memory, for which a worker waits until it is free.
    """

    asked: int
    n: int
    each_bytes: int

    @classmethod
    def of(cls, n_jobs: int, weights: int, free_bytes: int) -> Crew:
        """Of as many as were asked for those that have a job, and memory beside this process."""
        asked, each = _asked.get(), weights + BESIDE_BYTES
        return cls(asked, min(asked, n_jobs, max(n_fitting(free_bytes, each), 0)), each)

    def uneven(self, n_jobs: int) -> float:
        """How many times as long the last of them takes as it would if jobs could be parted."""
        return self.n * math.ceil(n_jobs / self.n) / n_jobs if self.n and n_jobs else 1.0

    @property
    def said(self) -> str:
        """What a user should know of those that will not work."""
        if self.n == self.asked:
            return ""
        room = f"room for {gb(self.each_bytes)} each"
        return f"{self.n} of {self.asked} workers have jobs to do and {room}"
