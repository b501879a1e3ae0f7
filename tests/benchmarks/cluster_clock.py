"""A run on many workers by a simulated clock, from what its pieces take."""

from __future__ import annotations

import heapq
from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """What a run on many workers is made of, in seconds."""

    workers: int
    models: int
    jobs: int  # of a model
    job_s: float
    load_s: float  # of a model by a worker
    plan_s: float  # of a model by the driver, before its jobs begin
    finish_s: float  # of a model by the driver, after them
    ask_s: float  # the driver's share of a job: asking, hearing, looking for the part


@dataclass(frozen=True)
class Spent:
    """Where the time of a run went, by the simulated clock."""

    wall_s: float
    working: float  # share of all workers' time
    loading: float
    waiting: float
    driver: float  # share of the wall time in which the driver is asked something


def simulated(cluster: Cluster) -> Spent:
    """Each worker takes the next job when it is free; the driver answers one at a time."""
    now = busy = driver = loading = 0.0
    for _ in range(cluster.models):
        now += cluster.plan_s
        free = [now + cluster.load_s] * cluster.workers
        loading += cluster.load_s * cluster.workers
        heapq.heapify(free)
        driver_free = end = now
        for _ in range(cluster.jobs):
            start = heapq.heappop(free)
            driver_free = max(driver_free, start) + cluster.ask_s
            done = driver_free + cluster.job_s
            heapq.heappush(free, done)
            end = max(end, done)
        driver += cluster.jobs * cluster.ask_s
        busy += cluster.jobs * cluster.job_s
        now = end + cluster.finish_s
    whole = now * cluster.workers
    return Spent(now, busy / whole, loading / whole, 1 - (busy + loading) / whole, driver / now)
