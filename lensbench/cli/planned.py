"""A plan on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from lensbench.cli.console import literal, table
from lensbench.escape import printable

if TYPE_CHECKING:
    from lensbench.costs.cost import Cost
    from lensbench.costs.plan import Plan
    from lensbench.costs.planned import Planned

_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_LONGER = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0))
_NOTHING = "there"
_AT_MOST = "≤"
_SHOWN = 3  # of the problems that prompts have


def show_plan(plan: Plan, console: Console) -> None:
    """What each record takes and all together, then what stands in the way; 80 columns."""
    rows = [_row(record) for record in plan.records if not record.unknown]
    if len(rows) > 1:
        rows.append(_sum(plan))
    if rows:
        console.print(table(rows, left=("record",), gap=1))
    for line in _lines(plan):
        console.print(literal(line), highlight=False, soft_wrap=True)


def _row(record: Planned) -> dict[str, object]:
    assert record.left is not None
    left, done = record.left, record.finished
    return {
        "record": printable(record.name),
        "prompts": "" if not record.n_prompts else f"{record.n_prompts:,}",
        **_counts(left, at_most=record.least is not None),
        "disk": _between(record.disk_bytes, "B"),
        "memory": "" if done or record.memory_bytes is None else f"{_large(record.memory_bytes)}B",
        "time": _NOTHING if done else said_time(record.wall_s or (0, 0)),
    }


def _sum(plan: Plan) -> dict[str, object]:
    left, memory = plan.left, plan.memory_bytes
    return {
        "record": "in all",
        "prompts": "",
        **_counts(left, at_most=plan.writes),
        "disk": _between(plan.disk_bytes, "B"),
        "memory": "" if memory is None else f"{_large(memory)}B",
        "time": said_time(plan.seconds),
    }


def _counts(cost: Cost, at_most: bool) -> dict[str, object]:
    sign = _AT_MOST if at_most else ""
    counts = {"tokens": f"{cost.n_tokens:,}", "padded": f"{cost.n_padded:,}"}
    return {name: sign + said for name, said in (counts | {"FLOP": _large(cost.flops)}).items()}


def _lines(plan: Plan) -> list[str]:
    """What the numbers are of, and what stands in the way."""
    left = plan.left
    read = sum(one.left.n_passes * (one.weight_bytes or 0) for one in plan.records if one.left)
    sign = _AT_MOST if plan.writes else ""
    found = [
        f"{sign}{left.n_passes:,} forward passes, which read {sign}{_large(read)}B of weights."
    ]
    if plan.writes:
        found.append(
            f"{_AT_MOST}: where no text ends before its limit; the least time, where all do."
        )
    found += [
        f"Bare products of width {own.d_model}, {own.n_threads} thread(s), {own.wall_s:.1f} s: "
        f"{_large(own.flops_per_s)}FLOP/s, {_large(own.bytes_per_s)}B/s."
        for own in plan.speeds
    ]
    if plan.speeds:
        low, high = plan.speeds[0].slower
        found.append(f"The time is {low:g} to {high:g} times theirs, and loading the models.")
        least, most = (end(one.noise[i] for one in plan.speeds) for i, end in enumerate((min, max)))
        found.append(f"In the time is that theirs was {least:.2f} to {most:.2f} of its mean.")
    for record in plan.records:
        if record.unknown and not record.obstacles:
            found.append(f"{record.name}: not counted: {record.unknown}")
        found += [f"{record.name}: {obstacle}" for obstacle in record.obstacles]
        problems = list(record.problems)
        found += [f"{record.name}: will skip: {one}" for one in problems[:_SHOWN]]
        if more := len(problems) - _SHOWN:
            found += [f"{record.name}: will skip {more} more"] if more > 0 else []
    return found


def said_time(seconds: Sequence[float]) -> str:
    """Such as 65-163s, or 1.6-4.0min."""
    low, high = seconds
    unit, size = next(((u, s) for u, s in _LONGER if high >= 2 * s), ("s", 1.0))
    return f"{_short(low / size)}-{_short(high / size)}{unit}"


def _between(ends: Sequence[float] | None, unit: str) -> str:
    if ends is None:
        return ""
    low, high = (_large(end) for end in ends)
    if low == high:
        return f"{high}{unit}"
    return f"{low.rstrip(high[-1])}-{high}{unit}"


def _large(number: float) -> str:
    """Such as "4.6T", to be followed by its unit."""
    letter, size = next(((u, s) for u, s in _UNITS if number >= s), ("", 1.0))
    return f"{_short(number / size)}{letter}"


def _short(number: float) -> str:
    return f"{number:.1f}" if number < 10 else f"{number:.0f}"
