"""Measuring jobs: times in turn within one process, memory each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from lensbench.records.manifest import peak_memory_bytes
from tests.benchmarks.peers import FORWARD, PEERS, Job

_CLEAR = Path("/proc/self/clear_refs")


def round_robin(jobs: Mapping[str, Job], rounds: int) -> dict[str, list[float]]:
    """Wall seconds of each job, A B C A B C ... after a warm-up, so that drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def waited(job: Job, device: str) -> Job:
    """The job to its end: an accelerator is still at work when the call returns."""

    def run() -> object:
        done = job()
        if device != "cpu":
            torch.accelerator.synchronize()
        return done

    return run


def peak_beyond_forward(name: str, folder: Path, n_tokens: int) -> int | None:
    """Bytes of resident memory that a peer peaks above a plain forward pass; Linux only.

    A fresh process prepares both jobs, warms both up and reads the kernel's own high-water mark.
    """
    if not _CLEAR.exists():
        return None
    command = [sys.executable, "-m", "tests.benchmarks.measure", name, str(folder), str(n_tokens)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(result.stdout.splitlines()[-1]))


def _measure(name: str, folder: Path, n_tokens: int) -> int:
    forward = PEERS[FORWARD](folder, n_tokens)
    job = forward if name == FORWARD else PEERS[name](folder, n_tokens)
    # Warmed up so that buffers which libraries keep for good count for neither.
    forward(), forward()
    plain = high_water(forward)
    return max(high_water(job) - plain, 0)


def high_water(job: Job) -> int:
    """Bytes of resident memory at a job's peak, by the kernel's own mark; Linux only."""
    _CLEAR.write_text("5")  # resets the mark (proc(5))
    job()
    return peak_memory_bytes()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))) + "\n")
