"""What the benches share: options, Markdown, and the line that says how a table was made."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter
from cyclopts.validators import Number

from lensbench.checkpoints.devices import device_facts
from lensbench.records.manifest import machine, versions


def at_least(minimum: int, text: str) -> Parameter:
    """An option with a lower bound."""
    return Parameter(help=text, validator=Number(gte=minimum))


Model = Annotated[str, Parameter(help="Alias or folder.")]
Device = Annotated[str | None, Parameter(help="cuda, mps, cpu. Default: the first.")]
Out = Annotated[Path, Parameter(help="Folder of the table.")]
Rounds = Annotated[int, at_least(1, "Timed rounds (of training: epochs) after a warm-up.")]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def ratios(seconds: Sequence[float], other: Sequence[float]) -> str:
    """How many times as fast `other` is, paired by round: median (least to most)."""
    times = [a / b for a, b in zip(seconds, other, strict=True)]
    return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"


def device_name(device: str) -> str:
    """What a GPU is called; else the device itself."""
    return device_facts(torch.device(device)).get("device_name", device)


def made_by(target: str, more: dict[str, str] | None = None) -> str:
    """The command, the day, the machine and the versions; `more` names other packages.

    The instruction set is what quantised kernels depend on most.
    """
    host = machine()
    packages = versions("inference", quantized=True) | (more or {})
    return (
        f"Made by `make {target}` on {datetime.datetime.now(datetime.UTC).date()}: {host['cpu']}, "
        f"{host['cores']} cores, {torch.backends.cpu.get_cpu_capability()}, "
        f"{host['memory_bytes'] / 2**30:.0f} GiB; "
        + ", ".join(f"{package} {version}" for package, version in packages.items())
        + "."
    )
