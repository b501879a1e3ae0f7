"""A table of a report: every number in its text is a cell of one, and it is kept as CSV too."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from lensbench.escape import csv_cell
from lensbench.stats.estimates import Estimate


@dataclass(frozen=True, eq=False)
class Table:
    """A table with its title. Cells: text, numbers or Estimates.

    `of_items`: its rows are prompts or cells of prompts, of which there may be a million. `n_rows`
    is how many there are, where `frame` has the first of them only. `folder` is the report that it
    is of, from the page that holds it.
    """

    name: str  # of its CSV file
    title: str
    frame: pd.DataFrame
    of_items: bool = False
    n_rows: int | None = None
    folder: str = ""

    @property
    def file(self) -> str:
        """Its CSV file, from the page that holds it."""
        return "/".join(filter(None, [self.folder, "tables", f"{self.name}.csv"]))

    @property
    def saved(self) -> str:
        """What its file is called, but for its ending, when it is taken along from that page."""
        return "-".join(filter(None, [self.folder, self.name]))

    def head(self, most: int) -> Table:
        """With the first rows only; itself where it has no more."""
        if len(self.frame) <= most:
            return self
        n_rows = len(self.frame) if self.n_rows is None else self.n_rows
        return replace(self, frame=self.frame.head(most).copy(), n_rows=n_rows)

    def row(self, **labels: object) -> dict[str, Any]:
        """The one row with these labels, as column -> cell: how prose refers to a number."""
        frame = self.frame
        for column, label in labels.items():
            frame = frame[frame[column] == label]
        assert len(frame) == 1, f"table {self.name}: {len(frame)} rows for {labels}"
        return {str(column): cell for column, cell in frame.iloc[0].items()}


def catalogue(tables: Mapping[str, tuple[str, pd.DataFrame]]) -> dict[str, Table]:
    """Tables by name, from their titles and frames."""
    return {name: Table(name, *table) for name, table in tables.items()}


_QUOTED_OR_END = re.compile(r'("(?:[^"]|"")*")|\r\n')


def to_csv(table: Table) -> bytes:
    """The table as CSV: an Estimate becomes value, low, high, n, clusters and reason columns."""
    text = io.StringIO()
    # With the line ends of RFC 4180 a lone "\r" in a cell is quoted too; with "\n" it is not.
    _expanded(table.frame).to_csv(text, index=False, lineterminator="\r\n", float_format="%.9g")
    rows = _QUOTED_OR_END.sub(lambda found: found[1] or "\n", text.getvalue())
    return rows.encode("utf-8", errors="backslashreplace")


def _expanded(frame: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, list[object]] = {}
    for name in frame:
        cells = frame[name].tolist()
        if any(isinstance(cell, Estimate) for cell in cells):
            for part, field in _PARTS.items():
                columns[f"{name}{part}"] = [getattr(cell, field, None) for cell in cells]
        else:
            columns[str(name)] = [csv_cell(c) if isinstance(c, str) else c for c in cells]
    return pd.DataFrame(columns)


_PARTS = {
    "": "value",
    "_low": "low",
    "_high": "high",
    "_n": "n",
    "_clusters": "n_clusters",
    "_reason": "reason",
}


def layers_shown(table: Table, steps: int = 11) -> pd.DataFrame:
    """About `steps` rows of a curve at even depths, ends included: enough to read in text."""
    n = len(table.frame)
    rows = np.linspace(0, max(n - 1, 0), min(steps, n)).round().astype(int)
    return table.frame.iloc[np.unique(rows)]
