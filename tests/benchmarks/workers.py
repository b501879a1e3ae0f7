"""Workers beside one process: seconds of a whole run; and on paper, 64 of them over 10 models.

    python -m tests.benchmarks.workers --out reports/bench

One process, one worker and two do the same run in turn, in processes of their own, and the tables
are compared. The paper part counts with the seconds that the measured run gives.
"""

from __future__ import annotations

import argparse
import heapq
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.harness.files import table_bytes

MODEL = "smollm2-135m"
_RUN = """
import json, sys, time
import lensbench as lb
n, out, limit = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
began = time.monotonic()
with lb.workers(n or None):
    outcome = lb.run(lb.RunSpec(models=(sys.argv[4],), prompts="facts", limit=limit), out)
assert outcome.ok
print(json.dumps(time.monotonic() - began))
"""


@dataclass(frozen=True)
class Cluster:
    """What a run on many workers is made of, in seconds and bytes."""

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


def seconds(n: int, out: Path, limit: int) -> float:
    """A whole run in a process of its own, its start and imports included."""
    began = time.monotonic()
    command = [sys.executable, "-c", _RUN, str(n), str(out), str(limit), MODEL]
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return time.monotonic() - began


def main() -> None:
    """Measure, simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/bench"))
    parser.add_argument("--limit", type=int, default=60)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tables = []
        for n in (0, 1, 2):
            out = Path(folder) / str(n)
            rows.append((n, seconds(n, out, given.limit)))
            tables.append(table_bytes(next(out.glob("*/manifest.json")).parent))
        same = all(one == tables[0] for one in tables)
    lines = ["# Workers beside one process", ""]
    lines += [f"`{MODEL}`, {given.limit} prompts of facts, whole runs with their start.", ""]
    lines += ["| who | s | against one process |", "|---|---|---|"]
    lines += [
        f"| {f'{n} worker(s)' if n else 'one process'} | {s:.1f} | {s / rows[0][1]:.2f} |"
        for n, s in rows
    ]
    lines += ["", f"Tables are the same bytes: {'yes' if same else 'NO'}.", ""]
    lines += on_paper()
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "workers.md").write_text("\n".join(lines) + "\n")
    print(json.dumps(dict(rows)))


def on_paper() -> list[str]:
    """10 models x 10,000 prompts by the simulated clock: jobs of small and of large models."""
    lines = ["## 10 models x 10,000 prompts, by a simulated clock", ""]
    lines += ["| workers | job, s | load, s | wall, h | working | loading | waiting | driver |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for workers in (1, 8, 64):
        for job_s, load_s in ((1.0, 10.0), (10.0, 120.0)):
            own = Cluster(workers, 10, 10_000 // 16, job_s, load_s, load_s + 20, 60.0, 0.005)
            spent = simulated(own)
            shares = (spent.working, spent.loading, spent.waiting, spent.driver)
            lines.append(
                f"| {workers} | {job_s:g} | {load_s:g} | {spent.wall_s / 3600:.2f} | "
                + " | ".join(f"{share:.0%}" for share in shares)
                + " |"
            )
    return [
        *lines,
        "",
        "Jobs are of 16 prompts; planning takes the driver a load and 20 s, making tables 60 s,",
        "a job 5 ms of its time. Waiting is what workers do while the driver plans, makes tables,",
        "or others finish the last jobs. Re-read: weights, once a worker and model. It holds",
        "the jobs (token ids) and one model, and of parts none: they lie in the record's folder.",
    ]


if __name__ == "__main__":
    main()
