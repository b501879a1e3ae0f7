"""Workers of a run as processes: which they are, and an end for some of them at random."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psutil


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
def killing(most: int, parts: Path, seed: int = 0) -> Iterator[list[int]]:
    """Kill so many workers below this process, each after some more parts; a few on their start."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        random, wanted = Random(seed), 1
        while len(killed) < most and not over.wait(0.05):
            done = len([*parts.glob("*.parquet")])
            if done >= wanted and (there := worker_processes()):
                wanted = done + random.randint(0, 6)
                one = random.choice(there)
                os.kill(one, signal.SIGKILL)
                killed.append(one)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()
