"""`python -m tests.benchmarks.workers`: the table of `make bench-workers`.

A whole run by one process, by one worker and by two, in turn, each in a process of its own; what
the driver holds while its run grows; and from the seconds measured here, 64 workers over 10 models
by a simulated clock.
"""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from lensbench.files import write_text
from lensbench.records.manifest import machine
from tests.benchmarks.cluster_clock import Cluster, Spent, simulated
from tests.benchmarks.table import Model, Out, Rounds, at_least, made_by, markdown_table, ratios
from tests.benchmarks.worked import Took, in_a_process
from tests.harness.counted import count_words
from tests.harness.files import table_bytes
from tests.harness.tiny import TINY, save
from tests.harness.workers import workers_alone

MOST = 1.1  # times one process that one worker may take, of a run that takes a minute or more
MINUTE_S = 60.0
WHO = {"one process": 0, "1 worker": 1, "2 workers": 2}
_STAGES = {
    "start": "start_s",
    "load": "load_s",
    "plan and gate": "plan_s",
    "first job": "wait_s",
    "other jobs": "jobs_s",
    "tables": "tables_s",
    "end": "end_s",
}
_FEW, _MANY = 200, 1000  # jobs of nothing, for the driver's share of one
_MODELS, _PROMPTS = 10, 10_000  # of the run on paper
Runs = dict[str, list[Took]]


def bench(
    model: Model = "smollm2-135m",
    limit: Annotated[int, at_least(2, "Base prompts, with the rows that go with each.")] = 110,
    rounds: Rounds = 1,
    sizes: Annotated[
        tuple[int, ...], Parameter(help="Prompts of the runs whose driver's memory is measured.")
    ] = (500, 2000, 6000),
    out: Out = Path("reports/bench"),
) -> None:
    """Seconds of a whole run by workers beside one process, and what the driver holds."""
    with Console(stderr=True).status("running"), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs, same = timed(folder, model, limit, rounds)
        grown = [grew(folder, n) for n in sizes]
        ask_s = share_of_a_job(folder)
    text = "\n".join(_markdown(model, runs, same, grown, ask_s))
    write_text(out / "workers.md", text)
    Console().print(text, markup=False, highlight=False)


def timed(folder: Path, model: str, limit: int, rounds: int) -> tuple[Runs, bool]:
    """The runs, and whether the tables of all are the same bytes."""
    runs: Runs = {who: [] for who in WHO}
    tables = []
    for number in range(rounds):
        for who, n in WHO.items():
            home = folder / f"{number}-{n}"
            runs[who].append(in_a_process(home, model, limit, n, "facts"))
            (manifest,) = home.glob("*/manifest.json")
            tables.append(table_bytes(manifest.parent))
    return runs, all(one == tables[0] for one in tables)


def grew(folder: Path, n_prompts: int) -> Took:
    """A run of a tiny model over so many prompts by one worker."""
    tiny, prompts = folder / "tiny", folder / f"{n_prompts}.csv"
    if not tiny.exists():
        save(TINY["llama"], tiny)
    with prompts.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "prompt"))  # its tokenizer has no numbers to answer with
        rows.writerows((f"p{i}", f"Number {i} and then") for i in range(n_prompts))
    return in_a_process(folder / f"grown-{n_prompts}", str(tiny), n_prompts, 1, str(prompts))


def share_of_a_job(folder: Path) -> float:
    """Seconds of the driver's processor for a job of nothing, a look at its part included."""
    spent = []
    with workers_alone(1):
        count_words(folder / "warm", ["a"])
        for n in (_FEW, _MANY):
            began = time.process_time()
            count_words(folder / f"words-{n}", [f"word{i}" for i in range(n)])
            spent.append(time.process_time() - began)
    return (spent[1] - spent[0]) / (_MANY - _FEW)


def _markdown(model: str, runs: Runs, same: bool, grown: Sequence[Took], ask_s: float) -> list[str]:
    one = runs["one process"]
    return [
        "# Workers beside one process",
        "",
        f"A lens run of {model} over {one[0].n_prompts} prompts of the shipped facts in "
        f"{one[0].n_jobs} jobs, each time in a process of its own from its start to its end, "
        f"{len(one)} round(s), {machine()['cores']} cores. Workers begin to start when the run "
        "does; this process loads the model too, and does jobs until the first of them is ready.",
        "",
        *markdown_table(
            ("who", "whole, s", "times one process", *(f"{name}, s" for name in _STAGES)),
            [_row(who, own, one) for who, own in runs.items()],
        ),
        "",
        "Median seconds; times are paired within a round: median (least to most). First job: until "
        "one is done. End: workers are sent home.",
        "",
        f"Tables are the same bytes: {'yes' if same else '**no**'}. {promise(runs)}",
        "",
        *_memory(model, runs, grown),
        *_on_paper(model, runs, grown, ask_s),
        made_by("bench-workers"),
        "",
    ]


def promise(runs: Runs) -> str:
    """Whether a worker costs no more than is promised, where the run is one that it is said of."""
    one = _median(runs["one process"], "wall_s")
    said = f"Promised of a run of a minute is at most {MOST:g} times one process for one worker"
    if one < MINUTE_S:
        return f"{said}; this one took {one:.0f} s, and says nothing of it."
    pairs = zip(runs["1 worker"], runs["one process"], strict=True)
    ratio = statistics.median(worker.wall_s / process.wall_s for worker, process in pairs)
    return f"{said}: {'it holds' if ratio <= MOST else '**it does not hold**'}."


def _row(who: str, own: Sequence[Took], one: Sequence[Took]) -> list[str]:
    walls = [took.wall_s for took in own], [took.wall_s for took in one]
    stages = [_median(own, name) for name in _STAGES.values()]
    return [who, f"{_median(own, 'wall_s'):.1f}", ratios(*walls), *(f"{s:.1f}" for s in stages)]


def _median(own: Sequence[Took], name: str) -> float:
    return statistics.median(float(getattr(took, name)) for took in own)


def _memory(model: str, runs: Runs, grown: Sequence[Took]) -> list[str]:
    """What the driver holds, and what a worker does beside what is reserved for it."""
    one = runs["1 worker"]
    driver, worker = (_median(one, f"{who}_bytes") for who in ("driver", "worker"))
    more = _more(grown, "driver_bytes")
    return [
        "## What is held in memory",
        "",
        "A tiny Llama, so that what grows is not hidden behind weights; one worker.",
        "",
        *markdown_table(
            ("prompts", "jobs", "driver's peak, GB"),
            [[f"{t.n_prompts:,}", f"{t.n_jobs:,}", f"{t.driver_bytes / 1e9:.3f}"] for t in grown],
        ),
        "",
        f"That is {more / 1e3:.1f} kB for each prompt more (its text, its tokens, its place in a "
        "job); rows that were measured stay on the disk until a stretch of them is written. A "
        f"worker of {model} peaked at {worker / 1e9:.2f} GB, its driver at {driver / 1e9:.2f}; "
        f"the weights in memory are {one[0].weight_bytes / 1e9:.2f} GB, and a worker is let load "
        "where they and 1 GiB are free.",
        "",
    ]


def _more(grown: Sequence[Took], what: str) -> float:
    """What a prompt more costs of `what`, by the smallest and the largest of runs that grew.

    Never a stage of one run by its prompts: what it takes once would be counted for each of them.
    """
    least, most = grown[0], grown[-1]
    rise = getattr(most, what) - getattr(least, what)
    return max(0.0, rise) / (most.n_prompts - least.n_prompts)


def _on_paper(model: str, runs: Runs, grown: Sequence[Took], ask_s: float) -> list[str]:
    """10 models x 10,000 prompts by the simulated clock, of what this bench has measured."""
    one = runs["one process"][0]
    pieces = {
        "jobs": ceil(_PROMPTS * one.n_jobs / one.n_prompts),
        "job_s": one.job_s,
        "load_s": one.load_s,
        "plan_s": one.load_s + one.plan_s + _more(grown, "plan_s") * _PROMPTS,
        "finish_s": one.tables_s + _more(grown, "tables_s") * _PROMPTS,
        "ask_s": ask_s,
    }
    spent = [(n, simulated(Cluster(n, _MODELS, **pieces))) for n in (1, 8, 64)]  # type: ignore[arg-type]
    read = one.file_bytes * _MODELS * (64 + 1) / 1e9
    return [
        f"## {_MODELS} models x {_PROMPTS:,} prompts, by a simulated clock",
        "",
        f"Of models like {model}, each worker on cores like these, from the seconds above: "
        f"{pieces['jobs']:,} jobs a model of {one.job_s:.2f} s; a worker loads in "
        f"{one.load_s:.1f} s; before the jobs of a model the driver loads and plans for "
        f"{pieces['plan_s']:.0f} s and makes tables for {pieces['finish_s']:.0f} s after them; "
        f"a job costs it {ask_s * 1e3:.1f} ms.",
        "",
        *markdown_table(
            ("workers", "wall, h", "working", "loading", "waiting", "driver asked"),
            [_shares(n, one) for n, one in spent],
        ),
        "",
        "Shares of all workers' time; of the driver's what jobs ask of it. Workers wait while the "
        "driver plans and makes tables, and while others finish a model's last jobs; that it does "
        "jobs while they load is left out. Read again "
        f"are the weights, once a worker and model ({read:,.0f} GB in all with 64); prompts, parts "
        "and hashes are not.",
        "",
    ]


def _shares(n: int, spent: Spent) -> list[str]:
    shares = (spent.working, spent.loading, spent.waiting, spent.driver)
    return [str(n), f"{spent.wall_s / 3600:.2f}", *(f"{share:.0%}" for share in shares)]


if __name__ == "__main__":
    cyclopts.run(bench)
