"""Why numbers have no interval: said once under a table, and not in each of its cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from string import ascii_lowercase

import pandas as pd

from lensbench.stats.estimates import Estimate


def said_once(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table with reasons that several cells share taken out of them, and what is said below it.

    A reason that all numbers share leaves no trace in the cells; of several each has a letter.
    Reasons that stand in one cell only stay there, and so do those of cells without a value.
    """
    without = list(_without_interval(frame))
    times = Counter(one.reason for one in without if one.reason)
    shared = [reason for reason, count in times.items() if count > 1]
    if not shared:
        return frame, []
    if len(times) == 1 and len(without) == sum(_has_value(c) for c in _cells(frame)):
        bare = frame.map(lambda cell: _with(cell, {shared[0]: None}))
        return bare, [f"No intervals: {shared[0]}."]
    letters = {reason: _letter(i) for i, reason in enumerate(shared)}
    notes = [f"({letter}) {reason}." for reason, letter in letters.items()]
    return frame.map(lambda cell: _with(cell, letters)), notes


def _cells(frame: pd.DataFrame) -> Iterator[object]:
    """Row by row, as they are read."""
    for row in frame.to_dict("records"):
        yield from row.values()


def _has_value(cell: object) -> bool:
    return isinstance(cell, Estimate) and cell.value is not None


def _without_interval(frame: pd.DataFrame) -> Iterator[Estimate]:
    for cell in _cells(frame):
        if isinstance(cell, Estimate) and cell.value is not None and None in (cell.low, cell.high):
            yield cell


def _with(cell: object, marks: Mapping[str, str | None]) -> object:
    """The cell with the mark of its reason in the reason's place."""
    if not isinstance(cell, Estimate) or cell.value is None or None not in (cell.low, cell.high):
        return cell
    return replace(cell, reason=marks.get(cell.reason or "", cell.reason))


def _letter(number: int) -> str:
    """a, b, ... z, then numbers: more reasons than letters."""
    return ascii_lowercase[number] if number < len(ascii_lowercase) else str(number + 1)
