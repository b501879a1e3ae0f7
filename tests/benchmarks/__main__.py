"""`python -m tests.benchmarks`: the tables of `make bench`, and whether the bounds hold."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from lensbench.checkpoints.source import locate
from lensbench.errors import MissingExtraError
from lensbench.files import write_text
from tests.benchmarks.measure import peak_beyond_forward, round_robin
from tests.benchmarks.peers import FLOOR, OURS, OURS_SEVERAL, PEERS, SEVERAL, STACK
from tests.benchmarks.table import Out, Rounds, at_least, made_by, markdown_table, ratios

_console = Console(stderr=True)
Seconds = dict[str, list[float]]
Memory = dict[str, int | None]  # bytes beyond a forward pass

# What is promised of the default statistics in float32, on a quiet machine: of one lens, times the
# floor, and of each further one beyond the forward pass that they share.
MOST = {"smollm2-135m": 1.0, "gemma3-270m": 1.05}
MOST_FURTHER = 1.0
MOST_KEPT_BYTES = 1 << 30
MOST_MEMORY_MIB = 64  # beyond the forward pass and the residual stream that is read


def bench(
    models: Annotated[
        tuple[str, ...], Parameter("--model", help="Alias or folder; repeatable.")
    ] = tuple(MOST),
    tokens: Annotated[int, at_least(2, "Length of the prompt.")] = 128,
    rounds: Rounds = 5,
    out: Out = Path("reports/bench"),
) -> None:
    """Time and memory of the lens beside TransformerLens, plain Hugging Face and nnterp."""
    parts = [_part(model, tokens, rounds) for model in models]
    text = "\n".join([*_head(tokens, rounds), *(line for part in parts for line in part), *_foot()])
    write_text(out / "bench.md", text)
    Console().print(text, markup=False, highlight=False)


def _part(model: str, tokens: int, rounds: int) -> list[str]:
    """One model's tables."""
    folder = locate(model).require_folder()
    jobs = {}
    for name, prepare in PEERS.items():
        if name == STACK and _kept_bytes(folder, tokens) > MOST_KEPT_BYTES:
            continue
        try:
            jobs[name] = prepare(folder, tokens)
        except MissingExtraError as error:
            _console.print(f"left out: {error}", markup=False)
    with _console.status(f"timing {model}"):
        seconds = round_robin(jobs, rounds)
    del jobs
    memory: Memory = {}
    for name in seconds:
        with _console.status(f"memory of {model}: {name}"):
            memory[name] = peak_beyond_forward(name, folder, tokens)
    rows = [
        [name, ratios(times, seconds[FLOOR]), _mib(memory[name])] for name, times in seconds.items()
    ]
    header = ("what", "time, times the floor", "memory beyond a forward pass, MiB")
    checked = bounds(model, seconds, memory, _stream_bytes(folder, tokens))
    return [
        f"## {model}",
        "",
        *markdown_table(header, rows),
        "",
        *markdown_table(("bound", "at most", "measured", "holds"), checked),
        "",
    ]


def bounds(model: str, seconds: Seconds, memory: Memory, stream_bytes: int) -> list[list[str]]:
    """What is promised, what was measured (the median of rounds), and whether that holds."""
    paired = list(zip(seconds[OURS], seconds[OURS_SEVERAL], seconds[FLOOR], strict=True))
    one = statistics.median(own / floor for own, _, floor in paired)
    more = len(SEVERAL) - 1
    further = statistics.median((many - own) / more / floor for own, many, floor in paired)
    found = [
        ("one lens, times the floor", MOST.get(model, max(MOST.values())), one, 2),
        ("each further lens, times the floor", MOST_FURTHER, further, 2),
    ]
    if memory[OURS] is not None:
        beyond = (memory[OURS] - stream_bytes) / 2**20
        found.append(
            ("memory beyond forward pass and residual stream, MiB", MOST_MEMORY_MIB, beyond, 0)
        )
    return [
        [what, f"{most:g}", f"{value:.{digits}f}", "yes" if value <= most else "**no**"]
        for what, most, value, digits in found
    ]


def _stream_bytes(folder: Path, tokens: int) -> int:
    """Of the residual stream that is read: every layer and position, float32."""
    return _bytes_of(folder, tokens, "hidden_size")


def _kept_bytes(folder: Path, tokens: int) -> int:
    """Of the log-probabilities at every layer and position."""
    return _bytes_of(folder, tokens, "vocab_size")


def _bytes_of(folder: Path, tokens: int, width: str) -> int:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return int(4 * tokens * (config["num_hidden_layers"] + 1) * config[width])


def _mib(size: int | None) -> str:
    return "n/a (Linux only)" if size is None else f"{size / 2**20:,.0f}"


def _head(tokens: int, rounds: int) -> list[str]:
    return [
        "# The lens beside its peers",
        "",
        f"One prompt of {tokens} tokens, every layer and position, full vocabulary, float32. Time "
        "is a multiple of the forward pass plus the bare head products of all layers, which are "
        f"written to memory, paired within each of {rounds} rounds: median (least to most). Memory "
        "is the peak of resident memory beyond a plain forward pass, each in a process of its own.",
        "",
        "lensbench computes all its default statistics; the others entropy, KL and top 5 (the "
        f"TransformerLens tool: entropy and top 5). The lenses are {', '.join(SEVERAL)}.",
        "",
    ]


def _foot() -> list[str]:
    return [
        "A way that keeps all log-probabilities is left out where they are more than "
        f"{MOST_KEPT_BYTES / 2**30:.0f} GiB. The tuned-lens library is not installed with the "
        "extra `bench`, and has no row.",
        "",
        made_by("bench"),
        "",
    ]


if __name__ == "__main__":
    cyclopts.run(bench)
