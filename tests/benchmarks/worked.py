"""One run in a process of its own, and what became of its time and memory: for the workers' bench.

    python -m tests.benchmarks.worked runs/one --model smollm2-135m --limit 60 --workers 1

prints a `Took` as JSON. A process that makes one run and ends is what a user waits for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import cyclopts
import psutil
import pyarrow.parquet as pq
from cyclopts import Parameter

import lensbench as lb
from lensbench.checkpoints.families import weight_bytes
from lensbench.checkpoints.source import locate
from lensbench.progress import Progress
from lensbench.records.manifest import peak_memory_bytes
from tests.harness.workers import worker_processes


@dataclass(frozen=True)
class Took:
    """Seconds of a run by what they went into, and the most memory that its processes held."""

    start_s: float  # the process, libraries, a pool that is asked for
    load_s: float  # the model, by the driver
    plan_s: float  # prompts as tokens, the gate, the jobs
    wait_s: float  # from then to the first job that is done
    jobs_s: float  # from the first job that is done to the last one
    tables_s: float  # the tables of the record
    end_s: float  # workers are sent home
    wall_s: float = 0.0  # the whole process, as who started it sees it
    n_jobs: int = 0
    n_prompts: int = 0
    driver_bytes: int = 0
    worker_bytes: int = 0  # of the largest; 0: there was none
    weight_bytes: int = 0  # of the model in memory
    file_bytes: int = 0  # of its weights on the disk

    @property
    def job_s(self) -> float:
        """Of a job: the first one that is done is where the count begins."""
        return self.jobs_s / (self.n_jobs - 1)


class Times:
    """When the stages of a run began, by what it tells of its progress."""

    def __init__(self) -> None:
        self.loading = self.planning = self.jobs = self.first = self.last = 0.0
        self.n_jobs = 0

    def __call__(self, now: Progress) -> None:
        """Something is done, or begins."""
        seen = time.time()
        if now.stage.startswith("loading"):
            self.loading = seen
        elif now.stage.startswith("testing the gate"):
            self.planning = self.planning or seen
        elif now.total is not None:
            self.n_jobs = now.total
            self.jobs = self.jobs or seen
            self.first = self.first or (seen if now.done else 0.0)
            self.last = seen


def took(folder: Path, model: str, prompts: str, limit: int, workers: int) -> Took:
    """Make the run; 0 workers: this process does the jobs."""
    began, times, largest = psutil.Process().create_time(), Times(), 0
    spec = lb.RunSpec(models=(model,), prompts=prompts, limit=limit, heatmap_prompts=0)
    with lb.workers(workers or None):
        outcome = lb.run(spec, folder, progress=times)
        made = time.time()
        largest = max(map(_peak_bytes, worker_processes()), default=0)
    assert outcome.ok, outcome
    known = lb.open_record(outcome.folder).model
    files = locate(model).require_folder().glob("*.safetensors")
    return Took(
        start_s=times.loading - began,
        load_s=times.planning - times.loading,
        plan_s=times.jobs - times.planning,
        wait_s=times.first - times.jobs,
        jobs_s=times.last - times.first,
        tables_s=made - times.last,
        end_s=time.time() - made,
        n_jobs=times.n_jobs,
        n_prompts=pq.read_metadata(outcome.folder / "prompts.parquet").num_rows,
        driver_bytes=peak_memory_bytes(),
        worker_bytes=largest,
        weight_bytes=weight_bytes(known["n_params"], known["dtype"]),
        file_bytes=sum(file.stat().st_size for file in files),
    )


def _peak_bytes(process: int) -> int:
    """The most memory that a process had resident so far (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def in_a_process(folder: Path, model: str, limit: int, workers: int, prompts: str) -> Took:
    """The same in a process of its own, which is timed from its start to its end."""
    command = [sys.executable, "-m", __spec__.name, str(folder), "--model", model]
    command += ["--limit", str(limit), "--workers", str(workers), "--prompts", prompts]
    began = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ)
    found = json.loads(done.stdout.splitlines()[-1])
    return Took(**found | {"wall_s": time.monotonic() - began})


def main(
    folder: Path,
    *,
    model: Annotated[str, Parameter(help="Alias or folder.")],
    limit: Annotated[int, Parameter(help="Base prompts.")],
    workers: Annotated[int, Parameter(help="0: none.")] = 0,
    prompts: Annotated[str, Parameter(help="A prompt set.")] = "facts",
) -> None:
    """Make a run, and print what it took."""
    print(json.dumps(asdict(took(folder, model, prompts, limit, workers))))


if __name__ == "__main__":
    cyclopts.run(main)
