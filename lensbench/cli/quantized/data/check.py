"""Look for duplicates, leaks between files, empty rows and pairs that are too long.

Exits with 1 when a row is malformed or empty, occurs twice (nearly or exactly), or leaks from
another file. One question with several responses, and pairs that are too long, are only shown.

Examples:

    lensbench data check data.jsonl --model smollm2-135m

    lensbench data check train.jsonl --against eval.jsonl --against test.jsonl
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from lensbench.cli.console import (
    SHOWN,
    interruptible,
    literal,
    messages,
    results,
    say,
    say_json,
    show_problems,
)
from lensbench.errors import Problem
from lensbench.quantized.data.spec import NEAR, Near
from lensbench.quantized.style import Style
from lensbench.spec import ARGUMENT, Count, Spec, idle

if TYPE_CHECKING:
    from lensbench.quantized.data.check import Match
    from lensbench.quantized.data.pairs import PairSet


class CheckSpec(Spec):
    """Which pairs are checked, against what."""

    pairs: Annotated[Path, ARGUMENT]
    """A .jsonl, .json or .csv of pairs."""
    model: str | None = None
    """Measure lengths in this model's tokens, not in characters."""
    style: Style | None = None
    """With --model. Default: chat for rows of messages, else alpaca."""
    against: tuple[Path, ...] = ()
    """A file that must share no row with this one; repeatable."""
    max_length: Count | None = None
    """With --model: tokens a pair may have. Default: its context."""
    near: Near = NEAR
    as_json: Annotated[bool, Parameter("--json")] = False
    """JSON on standard output."""

    def problems(self) -> list[Problem]:
        return idle(self, "model", "style", "max_length")


def check(spec: Annotated[CheckSpec, Parameter("*")]) -> int:
    from lensbench.quantized.data.check import FAULTS, matches
    from lensbench.quantized.data.lengths import lengths
    from lensbench.quantized.data.pairs import read_pairs

    with interruptible(kept=False), messages.status("comparing rows"):
        found = read_pairs(spec.pairs)
        others = [read_pairs(path) for path in spec.against]
        alike = matches(found, others, spec.near)
        sizes = lengths(spec.pairs, found.pairs, spec.model, spec.style, spec.max_length)
    problems = [problem for pair_set in (found, *others) for problem in pair_set.problems]
    if spec.as_json:
        say_json(_facts(found, alike, problems, sizes))
    else:
        _show(found, alike, problems, sizes)
    return 1 if problems or any(match.kind in FAULTS for match in alike) else 0


def _facts(
    found: PairSet, alike: Sequence[Match], problems: Sequence[Problem], lengths: dict[str, Any]
) -> dict[str, Any]:
    from lensbench.quantized.data.check import counts

    return {
        "file": found.name,
        "sha256": found.sha256,
        "pairs": len(found.pairs),
        "lengths": lengths,
        "counts": counts(alike),
        "matches": [vars(match) for match in alike],
        "problems": [vars(problem) for problem in problems],
    }


def _show(
    found: PairSet, alike: Sequence[Match], problems: Sequence[Problem], lengths: dict[str, Any]
) -> None:
    from lensbench.quantized.data.check import KINDS, counts

    say(f"{found.name}: {len(found.pairs):,} pairs")
    results.print(_lengths_table(lengths))
    faults = Table("rows", "too much alike", "", box=None, pad_edge=False, header_style="bold")
    for kind, n in counts(alike).items():
        faults.add_row(f"{n:,}", kind, KINDS[kind])  # type: ignore[index]
    results.print(faults, highlight=False)
    _list([f"{m.kind} ({m.similarity:.2f}): {m.first} / {m.second}" for m in alike])
    if "model" in lengths:
        long = lengths["too_long"]
        results.print(f"longer than {lengths['max_length']:,} tokens: {len(long):,}")
        _list([f"row {pair['row']}, id {pair['id']}: {pair['tokens']:,} tokens" for pair in long])
    show_problems(problems, "the output of --json")


def _lengths_table(lengths: dict[str, Any]) -> Table:
    unit = lengths["unit"]
    if "model" in lengths:
        unit += f" of {literal(lengths['model'])}, style {lengths['style']}"
    quantiles = lengths["quantiles"]
    table = Table(f"length in {unit}", box=None, pad_edge=False, header_style="bold")
    for label in quantiles["both"]:
        table.add_column(label, justify="right")
    for part, values in quantiles.items():
        table.add_row(part, *(f"{value:,.0f}" for value in values.values()))
    return table


def _list(lines: Sequence[str]) -> None:
    """The first lines, and how many more there are."""
    for line in lines[:SHOWN]:
        say(f"  {line}")
    if len(lines) > SHOWN:
        results.print(f"  ... and {len(lines) - SHOWN:,} more; all are in the output of --json")
