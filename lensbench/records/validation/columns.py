"""One column at a time: is it there, is every cell of its type, is every number in its range?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lensbench.errors import Problem
from lensbench.records.schema.declare import Column, Table

_MOST_NAMED = 5  # rows that a problem names
_SLACK = 1e-3  # of a bound, for what was rounded elsewhere


@dataclass(frozen=True)
class Source:
    """Where rows come from: the file, and what its first row is called (line 2 of a CSV)."""

    name: str
    word: str = "row"
    first: int = 0

    def at(self, places: Sequence[int]) -> str:
        """Some rows by their numbers."""
        named = ", ".join(str(self.first + place) for place in places[:_MOST_NAMED])
        more = f" and {len(places) - _MOST_NAMED} more" if len(places) > _MOST_NAMED else ""
        return f"{self.name}, {self.word} {named}{more}"


def wrong_rows(
    source: Source, wrong: pd.Series | np.ndarray | Sequence[bool], what: str, remedy: str
) -> Iterator[Problem]:
    """One problem that names every row for which `wrong` holds; none where none does."""
    places = np.flatnonzero(np.asarray(wrong, dtype=bool)).tolist()
    if places:
        yield Problem(source.at(places), what, remedy)


def typed(frame: pd.DataFrame, table: Table, source: Source) -> tuple[pa.Table, list[Problem]]:
    """A frame as the schema's table, null where a cell is not of its type, and all that is wrong.

    A column that may be null and is not there is null everywhere.
    """
    found, made = [], []
    for column in table.columns:
        if column.name not in frame:
            if not column.null:
                remedy = f"Add it: {column.meaning}."
                found.append(Problem(source.name, f"there is no column {column.name}", remedy))
            made.append(pa.nulls(len(frame), column.type))
            continue
        cells, strange = _cells(frame[column.name], column)
        what = f"{column.name} is no {_word(column.type)}"
        shown = next(
            (value for value, odd in zip(frame[column.name], strange, strict=True) if odd), None
        )
        found += wrong_rows(source, strange, f"{what}: {shown!r}", f"Give {column.meaning}.")
        array = pa.array(cells, column.type)
        found += _bad(column, array, strange, source)
        made.append(array)
    schema = pa.schema([pa.field(c.name, c.type) for c in table.columns])
    return pa.table(made, schema=schema), found


def _bad(column: Column, array: pa.Array, strange: np.ndarray, source: Source) -> Iterator[Problem]:
    """Cells that are missing, and numbers out of range."""
    null = np.asarray(array.is_null())
    if not column.null:
        what = f"{column.name} is missing"
        yield from wrong_rows(source, null & ~strange, what, f"Give {column.meaning}.")
    for bound, sign in ((column.least, -1), (column.most, 1)):
        if bound is None:
            continue
        off = np.array([_off(cell, bound, sign) for cell in array.to_pylist()])
        what = f"{column.name} is {'above' if sign > 0 else 'below'} {bound:g}"
        yield from wrong_rows(source, off, what, f"Its range: {column.unit or 'see the schema'}.")


def _off(cell: Any, bound: float, sign: int) -> bool:
    """Whether a number, or one of a list, lies beyond a bound."""
    numbers = cell if isinstance(cell, list) else [cell]
    return any(x is not None and sign * (x - bound) > _SLACK for x in numbers)


def _cells(values: pd.Series, column: Column) -> tuple[list[Any], np.ndarray]:
    """Each cell in the column's type or None, and where there was something else."""
    cells: list[Any] = []
    strange = np.zeros(len(values), dtype=bool)
    for i, value in enumerate(values):
        if _empty(value) or (isinstance(value, str) and value == ""):
            cells.append(None)
            continue
        try:
            cells.append(_as(value, column.type))
        except (TypeError, ValueError, OverflowError, pa.ArrowException):
            cells.append(None)
            strange[i] = True
    return cells, strange


def _empty(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value))


def _as(value: Any, kind: pa.DataType) -> Any:
    """A cell as a type has it. Raises what says that it is of another type."""
    if pa.types.is_list(kind):
        if isinstance(value, str | bytes):
            raise TypeError("a text is no list")
        if not len(value) or any(_empty(item) for item in value):
            raise ValueError("nothing where something belongs")
        return [_as(item, kind.value_type) for item in value]
    if pa.types.is_string(kind):
        if not isinstance(value, str):
            raise TypeError("no text")
        return value
    if pa.types.is_boolean(kind):
        if not isinstance(value, bool | np.bool_):
            raise TypeError("neither true nor false")
        return bool(value)
    if isinstance(value, bool | np.bool_ | str):
        raise TypeError("no number")
    number = float(value)
    if not np.isfinite(number):
        raise ValueError("not finite")
    if pa.types.is_floating(kind):
        return number
    if not number.is_integer():
        raise ValueError("no whole number")
    return pa.scalar(int(value), kind).as_py()


def _word(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_word(kind.value_type)}s"
    if pa.types.is_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "truth value"
    return "finite number" if pa.types.is_floating(kind) else "whole number"
