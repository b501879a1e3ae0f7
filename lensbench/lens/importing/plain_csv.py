"""A plain CSV: one row per prompt and layer, columns as in the data dictionary."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lensbench.errors import InputProblems, Problem, first_line
from lensbench.escape import csv_text
from lensbench.lens.importing.draft import Draft
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
    if "prompt_id" not in own:
        return Draft(told, parsed(own, PROMPTS), lens, _at(path), _at(path))
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
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            header, *rows = list(csv.reader(handle, strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        what = f"cannot be read as a CSV in UTF-8 ({first_line(error)})"
        raise InputProblems([Problem(str(path), what, "Save it as one.")]) from error
    problems = []
    if twice := [name for name, n in Counter(header).items() if n > 1]:
        what = f"the column {', '.join(twice)} stands twice"
        problems.append(Problem(str(path), what, "Rename or drop one."))
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        what = "its columns are not separated by commas"
        problems.append(Problem(str(path), what, "Save it with commas."))
    for line, row in enumerate(rows, start=2):
        if row and len(row) != len(header):
            what = f"{len(row)} cells for {len(header)} columns"
            problems.append(Problem(f"{path}, line {line}", what, "Mend the line."))
    if problems:
        raise InputProblems(problems)
    return pd.DataFrame([row for row in rows if row], columns=header, dtype=object)


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
            return json.loads(cell)
        return float(cell)
    except ValueError:
        return cell
