"""`python -m tests.benchmarks`: the table of `make bench`."""

from __future__ import annotations

import datetime
import statistics
from pathlib import Path
from typing import Annotated

import cyclopts
from rich.console import Console

from lensbench.checkpoints.source import locate
from lensbench.errors import MissingExtraError
from lensbench.files import write_text
from lensbench.records.manifest import machine, versions
from tests.benchmarks.measure import peak_beyond_forward, round_robin
from tests.benchmarks.peers import FLOOR, PEERS
from tests.benchmarks.table import Model, Out, Rounds, at_least

_console = Console(stderr=True)


def bench(
    model: Model = "smollm2-135m",
    tokens: Annotated[int, at_least(2, "Length of the prompt.")] = 128,
    rounds: Rounds = 5,
    out: Out = Path("reports/bench"),
) -> None:
    """Time and memory of the lens beside TransformerLens, plain Hugging Face and nnterp."""
    folder = locate(model).require_folder()
    jobs = {}
    for name, prepare in PEERS.items():
        try:
            jobs[name] = prepare(folder, tokens)
        except MissingExtraError as error:
            _console.print(f"left out: {error}", markup=False)
    with _console.status("timing"):
        seconds = round_robin(jobs, rounds)
    del jobs
    memory = {}
    for name in seconds:
        with _console.status(f"memory: {name}"):
            memory[name] = peak_beyond_forward(name, folder, tokens)
    text = _markdown(model, tokens, rounds, seconds, memory)
    write_text(out / "bench.md", text)
    Console().print(text, markup=False, highlight=False)


def _markdown(
    model: str,
    tokens: int,
    rounds: int,
    seconds: dict[str, list[float]],
    memory: dict[str, int | None],
) -> str:
    rows = []
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds[FLOOR], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        peak = memory[name]
        beyond = "n/a (Linux only)" if peak is None else f"{peak / 2**20:,.0f}"
        rows.append(f"| {name} | {spread} | {beyond} |")
    host = machine()
    return "\n".join(
        [
            "# The lens beside its peers",
            "",
            f"{model}, one prompt of {tokens} tokens, every layer and position, full vocabulary, "
            "float32. Time is a multiple of the forward pass plus the bare head products of all "
            f"layers, paired within each of {rounds} rounds: median (least to most). Memory is the "
            "peak of resident memory beyond a plain forward pass, each in a process of its own.",
            "",
            "| what | time, times the floor | memory beyond a forward pass, MiB |",
            "|---|---|---|",
            *rows,
            "",
            "lensbench computes all its metrics; the others entropy, KL and top 5 (the "
            "TransformerLens tool: entropy and top 5).",
            "",
            f"Made by `make bench` on {datetime.datetime.now(datetime.UTC).date()}: {host['cpu']}, "
            f"{host['cores']} cores, {host['memory_bytes'] / 2**30:.0f} GiB; "
            + ", ".join(f"{package} {version}" for package, version in versions().items())
            + ".",
            "",
        ]
    )


if __name__ == "__main__":
    cyclopts.run(bench)
