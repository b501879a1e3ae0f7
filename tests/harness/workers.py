"""Workers of a run as processes: which they are, and an end for some of them at random."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any
from unittest.mock import patch

import psutil

from lensbench.cli import main
from lensbench.cluster import executor
from lensbench.cluster.workers import workers
from lensbench.progress import Progress


def worker_processes(root: int | None = None) -> list[int]:
    """Processes that hold a worker, below this one or below `root`."""
    return [one for one, name in ray_processes(root) if name.startswith("ray::Worker")]


def ray_processes(root: int | None = None) -> list[tuple[int, str]]:
    """Ray's processes below this one or below `root`, and what each is called."""
    found = []
    for child in psutil.Process(root).children(recursive=True):
        try:
            name = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "ray" in name:
            found.append((child.pid, name))
    return found


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process leaves every job to workers: small ones it would have done before."""
    with patch.object(executor, "here_until", lambda *_: iter(())):
        yield


@contextmanager
def workers_alone(n: int, **how: Any) -> Iterator[None]:
    """`workers(n, ...)` who do every job."""
    with workers(n, **how), alone():
        yield


class Kills:
    """Watches a run of so many jobs, and kills workers at random: `killed` are their processes.

    Each a moment after one of the first jobs is done, chosen by chance: some while they do others,
    some on their start. While it is at it nobody is given a job, so that the run cannot be over
    before all have had their turn.
    """

    def __init__(self, most: int, n_jobs: int, seed: int = 0) -> None:
        self._random = Random(seed)
        self._after = sorted(self._random.sample(range(1, n_jobs * 3 // 4), most))
        self.killed: list[int] = []

    def __call__(self, now: Progress) -> None:
        """A job is done: perhaps the end of a worker."""
        due = self._after[len(self.killed) :]
        if now.total is None or not due or now.done < due[0]:
            return
        time.sleep(self._random.random() ** 3 / 10)
        if there := [one for one in worker_processes() if one not in self.killed]:
            self.killed.append(self._random.choice(there))
            os.kill(self.killed[-1], signal.SIGKILL)


if __name__ == "__main__":  # the program, as `python -m lensbench.cli`, whose workers do every job
    with alone():
        main()
