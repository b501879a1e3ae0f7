"""Rows of numbers as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table

from lensbench.cli.console import literal


def table(rows: Sequence[dict[str, Any]], hidden: Sequence[str] = ()) -> Table:
    """Rows of numbers for the terminal."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    columns = [name for name in rows[0] if name not in hidden]
    for name in columns:
        side: JustifyMethod = "left" if isinstance(rows[0][name], str) else "right"
        shown.add_column(name.replace("_", " "), justify=side, overflow="fold")
    for row in rows:
        shown.add_row(*(literal(_cell(row[name])) for name in columns))
    return shown


def _cell(value: object) -> str:
    if value is None:
        return "n/a"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
