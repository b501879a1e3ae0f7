"""How a schema is declared: columns, tables, entries of a manifest and kinds of record, as data.

Everything that the data dictionary says stands here once, beside the column that it is about.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

TEXT, FLAG = pa.string(), pa.bool_()
I16, I32, I64 = pa.int16(), pa.int32(), pa.int64()
F32, F64 = pa.float32(), pa.float64()


@dataclass(frozen=True)
class Column:
    """A column of a table. Without a meaning of null it is never null: pyarrow refuses to write.

    `since` is the version of the schema that brought it: a record older than that reads as null.
    `least` and `most` bound its numbers. `filled` is what an import puts there where a file says
    nothing.
    """

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""  # of the number, with its range where that is not plain
    null: str = ""  # what null means
    since: int = 1
    least: float | None = None
    most: float | None = None
    filled: str = ""

    @property
    def need(self) -> str:
        """What one who writes such a record elsewhere has to give."""
        return f"filled in: {self.filled}" if self.filled else "optional" if self.null else "needed"

    @property
    def field(self) -> pa.Field:
        """As Arrow and Parquet have it."""
        return pa.field(self.name, self.type, nullable=bool(self.null))


@dataclass(frozen=True)
class Table:
    """A table of a record: `rows` says what one row is of."""

    name: str
    rows: str
    columns: tuple[Column, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """Names, types and what may be null."""
        return pa.schema([column.field for column in self.columns])

    def of_columns(self, columns: Mapping[str, Any]) -> pa.Table:
        """The table of arrays by the names of its columns; NaN becomes null."""
        arrays = [pa.array(columns[f.name], f.type, from_pandas=True) for f in self.schema]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def of_rows(self, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
        """The table of rows; a column that a row has not is null."""
        return pa.Table.from_pylist(list(rows), self.schema)

    @property
    def names(self) -> list[str]:
        """The columns, in order."""
        return [column.name for column in self.columns]

    def ends(self, name: str) -> tuple[float, float]:
        """Between which two numbers those of a column lie; infinite where none bounds them."""
        (column,) = [column for column in self.columns if column.name == name]
        least, most = column.least, column.most
        return -math.inf if least is None else least, math.inf if most is None else most


def listed(meanings: Mapping[str, str]) -> str:
    """Names with their meanings, for what a column says of its values."""
    return "; ".join(map(": ".join, meanings.items()))


def interval_ends(name: str, over: str, unit: str, null: str) -> tuple[Column, Column]:
    """The two ends of a column's 95 % interval over `over`; `null` is why it has none."""
    return (
        Column(f"{name}_low", F64, f"95 % interval over {over}", unit, null),
        Column(f"{name}_high", F64, "its upper end", unit, null),
    )


@dataclass(frozen=True)
class Entry:
    """An entry of a manifest. It is null or absent only for the reason named here."""

    name: str
    meaning: str
    null: str = ""
    absent: str = ""
    type: str = ""  # of JSON; empty: any


@dataclass(frozen=True)
class Kind:
    """A kind of record: what makes it, its tables, and what its manifest has of its own."""

    name: str
    made_by: str
    tables: tuple[Table, ...]
    optional: tuple[Table, ...] = ()  # there if the run was asked for them
    entries: tuple[Entry, ...] = ()

    @property
    def names(self) -> list[str]:
        """The tables that a complete record of this kind holds."""
        return [table.name for table in self.tables]
