"""A plain CSV: one row per prompt and layer, columns as in the data dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lensbench.errors import InputProblems, Problem
from lensbench.escape import csv_text
from lensbench.json_text import parse_json
from lensbench.lens.importing.draft import Draft
from lensbench.prompts.rows import read_rows
from lensbench.records.schema.declare import Column, Table
from lensbench.records.schema.lens import LENS, PROMPTS
from lensbench.records.validation.columns import Source
from lensbench.records.validation.told import Told

_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def read_csv(path: Path, told: Told, prompts: Path | None) -> Draft:
    """The rows of a file, and its prompts: of a file of their own, or columns of the same.

    Raises InputProblems for a file that is no CSV, and for a prompt that is told in two ways.
    """
    cells = _cells(path)
    lens = parsed(cells[[c for c in cells if c in LENS.names or c not in PROMPTS.names]], LENS)
    if prompts is not None:
        return Draft(told, read_prompts(prompts), lens, _at(prompts), _at(path))
    own = cells[[column for column in cells if column in PROMPTS.names]]
    once = own.drop_duplicates()
    twice = once.loc[once["prompt_id"].duplicated(keep=False)].groupby("prompt_id", sort=False)
    problems = [
        Problem(
            str(path),
            f"prompt {name!r} has more than one "
            + ", ".join(str(c) for c in rows if rows[c].nunique() > 1),
            "Give each prompt one, in all its rows.",
        )
        for name, rows in twice
    ]
    if problems:
        raise InputProblems(problems)
    return Draft(told, parsed(once.reset_index(drop=True), PROMPTS), lens, _at(path), _at(path))


def read_prompts(path: Path) -> pd.DataFrame:
    """A CSV of prompts, columns as in the table `prompts`."""
    return parsed(_cells(path), PROMPTS)


def _at(path: Path) -> Source:
    return Source(str(path), "line", 2)


def _cells(path: Path) -> pd.DataFrame:
    """Every cell as text. Raises InputProblems with what is wrong with the file."""
    if not path.is_file():
        raise InputProblems([Problem(str(path), "there is no such file", "Name a CSV.")])
    problems: list[Problem] = []
    rows = [cells for _, cells in read_rows(path, str(path), problems, ("prompt_id",))]
    if not rows and not problems:
        problems.append(Problem(str(path), "there are no rows", "Give what was measured."))
    if problems:
        raise InputProblems(problems)
    return pd.DataFrame(rows, dtype=object)


def parsed(cells: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Cells as their columns' types say; what cannot be read so stays text, for who checks it."""
    columns = {column.name: column for column in table.columns}
    made = cells.copy()
    for name in made:
        if name in columns:
            made[name] = pd.Series([_read(c, columns[name]) for c in made[name]], dtype=object)
    return made


def _read(cell: str, column: Column) -> Any:
    if cell == "":
        return None
    if pa.types.is_string(column.type):
        return csv_text(cell)
    try:
        if pa.types.is_boolean(column.type):
            return _TRUTH.get(cell.strip().lower(), cell)
        if pa.types.is_list(column.type):
            return parse_json(cell)
        return float(cell)
    except ValueError:
        return cell
