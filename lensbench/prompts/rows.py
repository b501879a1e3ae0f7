"""Rows of a CSV or JSONL file; a bad one is reported with its row, and the rest goes on."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lensbench.errors import InputProblems, Problem

_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell it; nothing can tokenise it
_MAX_CELL = 100_000  # characters; no context window of a model here holds more
_SAVE_AS = "Save the file as UTF-8; spreadsheets call it 'CSV UTF-8'."

Row = tuple[int, dict[str, str]]  # the line it starts on, and its cells


class Columns(NamedTuple):
    """The columns (or JSON keys) that a file must have, and those it may have."""

    required: Sequence[str]
    optional: Sequence[str]
    empty: bool  # whether rows without any content are wanted


def read_rows(
    path: Path,
    name: str,
    problems: list[Problem],
    required: Sequence[str],
    optional: Sequence[str] = (),
    empty: bool = False,
) -> Iterator[Row]:
    """The rows of a .csv or .jsonl file, one at a time; `problems` grows by those that are no rows.

    Cells come as text; a JSON null is an empty one. Cells are not looked into (`cell_problems`).
    Rows of a CSV that hold nothing but commas come only with `empty`.
    Raises InputProblems when the file cannot be read at all or lacks a required column.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in readers:
        what = f"'{path.suffix}' is no known kind of file for this"
        raise InputProblems([Problem(name, what, "Save it as .csv or .jsonl.")])
    reader = readers[path.suffix.lower()]
    return reader(text_of(path, name), name, problems, Columns(required, optional, empty))


def cell_problems(cells: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What no cell of any file may hold, and what to do about it."""
    for column, cell in cells.items():
        if len(cell) > _MAX_CELL:
            what = f"the cell '{column}' has {len(cell):,} characters"
            yield what, f"At most {_MAX_CELL:,} are taken; a quote may be missing before it."
        if "\0" in cell:
            yield f"there is a NUL byte in '{column}'", "Save the file as plain UTF-8 text."
        if not cell.isascii() and _SURROGATE.search(cell):
            yield f"there is half a character (a lone surrogate) in '{column}'", "Write it whole."


def sound_rows(
    rows: Iterable[Row], name: str, problems: list[Problem], needed: Sequence[str]
) -> Iterator[Row]:
    """The rows with an id of their own and text in each `needed` column; others are problems."""
    seen: dict[str, int] = {}
    for line, cells in rows:
        found = list(row_problems(cells, needed, seen))
        if not found:
            seen[cells["id"]] = line
            yield line, cells
        where, item = place(name, line, cells["id"]), cells["id"] or None
        problems += [Problem(where, what, remedy, item) for what, remedy in found]


def place(name: str, line: int, item: str) -> str:
    """Where a row stands, for people."""
    return f"{name}, row {line}" + (f", id {item}" if item.strip() else "")


def row_problems(
    cells: Mapping[str, str], needed: Sequence[str], seen: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """What is wrong with a row, and what to do, given the ids `seen` before and their rows."""
    yield from id_problems(cells["id"], seen)
    for column in needed:
        if not cells[column].strip():
            yield f"the {column} is empty", "Write one or delete the row."
    yield from cell_problems(cells)


def id_problems(item: str, seen: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """What is wrong with an id, given those `seen` before and their rows."""
    remedy = "Give each row an id of its own."
    if not item.strip():
        yield "the id is empty", remedy
    elif item in seen:
        yield f"the id was used in row {seen[item]} before", remedy


def text_of(path: Path, name: str) -> str:
    """The file's text; a byte order mark is taken off."""
    data = path.read_bytes()
    if b"\0" in data[:4]:  # UTF-16 without a mark is valid, if senseless, UTF-8
        what = "it is UTF-16 or UTF-32, not UTF-8"
        raise InputProblems([Problem(name, what, _SAVE_AS)])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = f"line {line} is not UTF-8 (byte 0x{data[error.start]:02x})"
        raise InputProblems([Problem(name, what, _SAVE_AS)]) from error


def _csv_rows(text: str, name: str, problems: list[Problem], columns: Columns) -> Iterator[Row]:
    """Rows of a CSV, cells with line ends in them included."""
    csv.field_size_limit(max(len(text), csv.field_size_limit()))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        problem = Problem(f"{name}, row 1", f"the header is not CSV ({error})", "Close the quotes.")
        raise InputProblems([problem]) from error
    _require_columns(header, name, columns)
    start = reader.line_num + 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells or not (any(cells) or columns.empty):
                continue
            if len(cells) != len(header):
                what = f"it has {len(cells)} cells, the header {len(header)}"
                remedy = "Put cells with commas or line ends in double quotes."
                problems.append(Problem(f"{name}, row {line}", what, remedy))
                continue
            yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        where, what = f"{name}, row {start}", f"it is not CSV from here on ({error})"
        problems.append(Problem(where, what, "Close the quotes."))


def _require_columns(header: list[str], name: str, columns: Columns) -> None:
    missing = [column for column in columns.required if column not in header]
    if missing:
        what = (
            f"the column(s) {', '.join(missing)} are missing; it has {', '.join(header) or 'none'}"
        )
        remedy = f"The header needs {', '.join(columns.required)}"
        remedy += f"; optional: {', '.join(columns.optional)}." if columns.optional else "."
        raise InputProblems([Problem(name, what, remedy)])


def _jsonl_rows(text: str, name: str, problems: list[Problem], columns: Columns) -> Iterator[Row]:
    """One JSON object a line."""
    for line, row in json_objects(text, name, problems):
        missing = [key for key in columns.required if key not in row]
        if missing:
            what = f"the key(s) {', '.join(missing)} are missing"
            remedy = f"Each line needs {', '.join(columns.required)}."
            problems.append(Problem(f"{name}, row {line}", what, remedy))
            continue
        yield line, {key: "" if value is None else str(value) for key, value in row.items()}


def json_objects(
    text: str, name: str, problems: list[Problem]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL text, with their lines; `problems` grows by lines that hold none."""
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        where = f"{name}, row {line}"
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            problems.append(Problem(where, f"it is not JSON ({error})", "One object a line."))
            continue
        if isinstance(row, dict):
            yield line, row
        else:
            problems.append(Problem(where, "it is no JSON object", 'Write {"id": ..., ...}.'))
