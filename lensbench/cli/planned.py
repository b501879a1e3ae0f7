"""A plan on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from lensbench.cli.console import literal, table
from lensbench.escape import printable

if TYPE_CHECKING:
    from lensbench.costs.cost import Cost
    from lensbench.costs.machine import Speed
    from lensbench.costs.plan import Plan
    from lensbench.costs.planned import Planned

_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_LONGER = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0))
_NOTHING = "there"
_AT_MOST = "≤"
_UNKNOWN = "?"
_SHOWN = 3  # of the problems that prompts have


def show_plan(plan: Plan, console: Console) -> None:
    """What each record takes and all together, then what stands in the way; 80 columns."""
    rows = [_row(record) for record in plan.records if not record.unknown]
    if len(rows) > 1:
        rows.append(_sum(plan))
    if rows:
        console.print(table(rows, left=("record",), gap=1))
    for line in _lines(plan):
        console.print(literal(_wrapped(line)), highlight=False, soft_wrap=True)


def _wrapped(line: str) -> str:
    """In 80 columns, what belongs to a line further in; a path or command is not broken."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    wrapper = textwrap.TextWrapper(80, subsequent_indent=indent, break_long_words=False)
    wrapper.break_on_hyphens = False
    return wrapper.fill(printable(line))


def _row(record: Planned) -> dict[str, object]:
    assert record.left is not None
    left, done = record.left, record.finished
    return {
        "record": printable(record.name),
        "prompts": "" if not record.n_prompts else f"{record.n_prompts:,}",
        **_counts(left, at_most=record.least is not None),
        "disk": _between(record.disk_bytes, "B"),
        "memory": "" if record.peak_bytes is None else f"{_large(record.peak_bytes)}B",
        "time": _NOTHING if done else said_time(record.wall_s),
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
    """The total, what it means, what is in none of it, and what stands in the way."""
    found = [_total(plan), *_read_so(plan), *_timed(plan), *_not_counted(plan)]
    untimed = [one for one in plan.records if one.untimed]
    found += _by_text((f"its time is not known: {one.untimed}", one.name) for one in untimed)
    found += _by_text((note, one.name) for one in plan.records for note in one.notes)
    for record in plan.records:
        problems = list(record.problems)
        found += [f"{record.name}: will skip: {one}" for one in problems[:_SHOWN]]
        if more := len(problems) - _SHOWN:
            found += [f"{record.name}: will skip {more} more"] if more > 0 else []
    obstacles = [(record.name, one) for record in plan.records for one in record.obstacles]
    if obstacles:
        found.append("In the way, and to be mended before the run:")
    for name, obstacle in obstacles:
        first, *further = obstacle.split("\n")
        found += [f"  {name}: {first}", *(f"    {line.strip()}" for line in further)]
    return found


def _total(plan: Plan) -> str:
    """What a user wants to know first."""
    counted = [one for one in plan.records if not one.unknown]
    more = [one for one in plan.records if one.unknown or one.untimed]
    n = len(more)
    rest = f", and {n} record{'s' * (n > 1)} of unknown time" if n else ""
    if not counted:
        if plan.records and all(one.obstacles for one in plan.records):
            return "Nothing of this can be run as it is."
        return "Nothing of this can be counted beforehand."
    if all(one.finished for one in counted):
        return _there(len(counted), len(plan.records))
    n = max(one.n_workers for one in counted)
    who = f"with {n} worker{'s' * (n > 1)}" if n else "on this machine"
    memory = "" if plan.memory_bytes is None else f", {_large(plan.memory_bytes)}B of memory"
    disk = _between(plan.disk_bytes, "B")
    time = "a time that is not known" if plan.seconds is None else said_time(plan.seconds)
    return f"In all {time} {who}, {disk} of disk{memory} at the peak{rest}."


def _there(n: int, n_all: int) -> str:
    """That finished records cost nothing; of others nothing can be counted."""
    if n_all == 1:
        return "The one record is there, and costs nothing."
    are, cost = ("are", "cost") if n > 1 else ("is", "costs")
    return f"Of {n_all} records {n} {are} there, and {cost} nothing."


def _read_so(plan: Plan) -> list[str]:
    """How to read the columns."""
    left, sign = plan.left, _AT_MOST if plan.writes else ""
    if not left.n_passes:
        return []
    read = sum(one.left.n_passes * (one.weight_bytes or 0) for one in plan.records if one.left)
    found = [
        "Padded: the tokens that are computed, with padding; a beginning that texts of a batch "
        "share counts once. FLOP: operations, T = 10^12.",
        f"{sign}{left.n_passes:,} passes of a model read {sign}{_large(read)}B of weights.",
    ]
    if plan.writes:
        found.append(
            f"{_AT_MOST} is at most: every text goes on to its limit, with the longest contexts; "
            "the least time is of texts that end at once, with the shortest."
        )
    return found


def _timed(plan: Plan) -> list[str]:
    """Where the time is from."""
    if not plan.speeds:
        return []
    each = "; ".join(map(_measured, plan.speeds))
    low, high = plan.speeds[0].slower
    least, most = (end(one.noise[i] for one in plan.speeds) for i, end in enumerate((min, max)))
    return [
        f"The time is an estimate: this machine was timed for "
        f"{sum(one.wall_s for one in plan.speeds):.1f} s at products of matrices ({each}). A run "
        f"takes {low:g} to {high:g} times as long as its products, and loads its models; other "
        f"programs made these vary from {least:.2f} to {most:.2f} of their mean.",
    ]


def _measured(own: Speed) -> str:
    threads = f"{own.n_threads} thread{'s' * (own.n_threads > 1)}"
    who = f"{own.n_workers} at once, {threads} each" if own.n_workers > 1 else threads
    rates = f"{_large(own.flops_per_s)}FLOP/s, {_large(own.bytes_per_s)}B/s of weights"
    return f"width {own.d_model}, {who}: {rates}"


def _not_counted(plan: Plan) -> list[str]:
    """Records that are in no sum, by the reason."""
    left_out = [one for one in plan.uncounted if not one.obstacles]
    return _by_text((f"not counted: {one.unknown}", one.name) for one in left_out)


def _by_text(told: Iterable[tuple[str, str]]) -> list[str]:
    """What is said of records by their names, once where it is said of several."""
    names: dict[str, list[str]] = {}
    for text, name in told:
        names.setdefault(text, []).append(name)
    return [f"{'; '.join(own)}: {text}." for text, own in names.items()]


def said_time(seconds: Sequence[float] | None) -> str:
    """Such as 65-163s, or 1.6-4.0min."""
    if seconds is None:
        return _UNKNOWN
    low, high = seconds
    unit, size = next(((u, s) for u, s in _LONGER if high >= 2 * s), ("s", 1.0))
    return f"{_short(low / size)}-{_short(high / size)}{unit}"


def _between(ends: Sequence[float] | None, unit: str) -> str:
    if ends is None:
        return ""
    low, high = (_large(end) for end in ends)
    if low == high:
        return f"{high}{unit}"
    of_low, of_high = (end.lstrip("0123456789.") for end in (low, high))
    if of_low == of_high:
        return f"{low.removesuffix(of_low)}-{high}{unit}"
    return f"{low}{unit}-{high}{unit}"


def _large(number: float) -> str:
    """Such as "4.6T", to be followed by its unit."""
    letter, size = next(((u, s) for u, s in _UNITS if number >= s), ("", 1.0))
    return f"{_short(number / size)}{letter}"


def _short(number: float) -> str:
    return f"{number:.1f}" if number < 10 else f"{number:.0f}"
