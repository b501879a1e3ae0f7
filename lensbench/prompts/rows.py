"""Rows of a CSV or JSONL file; a bad one is reported with its row, and the rest goes on."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lensbench.errors import InputProblems, Problem
from lensbench.json_text import parse_json

_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell it; nothing can tokenise it
_MAX_CELL = 100_000  # characters; no context window of a model here holds more
_SAVE_AS = "Save the file as UTF-8; spreadsheets call it 'CSV UTF-8'."

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_KINDS = {bool: "true or false", list: "a list", dict: "an object"}  # of JSON, that are no text

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
    """The rows of a .csv, .jsonl or .json file, one at a time.

    `problems` grows by those that are no rows.

    Cells come as text: a JSON null or NaN is an empty one, a number is as it is written, and what
    is no text in a column that is asked for is a problem. Ids come without space around them. Cells
    are not looked into (`cell_problems`).
    Rows of a CSV that hold nothing but commas come only with `empty`.
    Raises InputProblems when the file cannot be read at all or lacks a required column.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".json": _jsonl_rows}
    if path.suffix.lower() not in readers:
        what = f"'{path.suffix}' is no known kind of file for this"
        raise InputProblems([Problem(name, what, "Save it as .csv, .jsonl or .json.")])
    reader = readers[path.suffix.lower()]
    text = json_lines(path) if path.suffix.lower() == ".json" else text_of(path, name)
    rows = reader(text, name, problems, Columns(required, optional, empty))
    return ((line, cells | _bare_id(cells)) for line, cells in rows)


def _bare_id(cells: Mapping[str, str]) -> dict[str, str]:
    """The id without space around it: "7" and "7 " are the same row to whoever wrote them."""
    return {"id": cells["id"].strip()} if "id" in cells else {}


QUOTE = "; a quote may be missing before it"  # in a table


def cell_problems(cells: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What no cell of any file may hold, and what to do about it."""
    for column, cell in cells.items():
        if len(cell) > _MAX_CELL:
            what = f"the cell '{column}' has {len(cell):,} characters"
            yield what, f"At most {_MAX_CELL:,} are taken{QUOTE}."
        if "\0" in cell:
            yield f"there is a NUL byte in '{column}'", "Save the file as plain UTF-8 text."
        if not cell.isascii() and _SURROGATE.search(cell):
            yield f"there is half a character (a lone surrogate) in '{column}'", "Write it whole."


def text_problems(text: str, where: str) -> list[Problem]:
    """What is wrong with a text that is given by itself, in no file."""
    empty = [] if text.strip() else [Problem(where, "the text is empty", "Write one.")]
    return empty + [
        Problem(
            where,
            what.replace("the cell 'text'", "it").replace(" in 'text'", ""),
            how.replace(QUOTE, ""),
        )
        for what, how in cell_problems({"text": text})
    ]


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
    unnamed = [i for i, column in enumerate(header) if not column]
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
            if said := [cells[i] for i in unnamed if cells[i].strip()]:
                what = f"'{said[0][:30]}' stands under no column's name"
                problems.append(Problem(f"{name}, row {line}", what, "Name the column."))
                continue
            yield line, {column: cell for column, cell in zip(header, cells, strict=True) if column}
    except csv.Error as error:
        where, what = f"{name}, row {start}", f"it is not CSV from here on ({error})"
        problems.append(Problem(where, what, "Close the quotes."))


def _require_columns(header: list[str], name: str, columns: Columns) -> None:
    if twice := sorted(column for column, n in Counter(header).items() if column and n > 1):
        what = f"the column(s) {', '.join(twice)} stand twice"
        raise InputProblems([Problem(name, what, "Give each column a name of its own.")])
    if problem := _misspelt(header, name, columns):
        raise InputProblems([problem])
    missing = [column for column in columns.required if column not in header]
    if not missing:
        return
    for mark, called in _SEPARATORS.items():
        if any(mark in column for column in header):
            what = f"its columns are separated by {called}"
            raise InputProblems([Problem(name, what, "Save it with commas between columns.")])
    what = f"the column(s) {', '.join(missing)} are missing; it has {', '.join(header) or 'none'}"
    remedy = f"The header needs {', '.join(columns.required)}"
    remedy += f"; optional: {', '.join(columns.optional)}." if columns.optional else "."
    raise InputProblems([Problem(name, what, remedy)])


def _misspelt(header: Iterable[str], name: str, columns: Columns) -> Problem | None:
    """Columns that would be passed over for a capital or a space: `Answer` is no `answer`."""
    known = (*columns.required, *columns.optional)
    found = {c: c.strip().lower() for c in header if c not in known and c.strip().lower() in known}
    if not found:
        return None
    what = f"the column(s) {', '.join(map(repr, found))} would not be read"
    return Problem(name, what, f"Write {', '.join(dict.fromkeys(found.values()))}.")


def json_lines(path: Path) -> str:
    """The objects of a JSON file, one a line: a .json array's elements as they are written there.

    Many a .json holds one object a line already. Raises InputProblems when it is neither.
    """
    text = text_of(path, path.name)
    if path.suffix.lower() != ".json" or text.lstrip()[:1] in ("{", ""):
        return text
    decoder, at, lines = json.JSONDecoder(), text.find("[") + 1, list[str]()
    try:
        while text[(at := _skip(text, at)) : at + 1] != "]":
            _, end = decoder.raw_decode(text, at)
            lines.append(re.sub(r"[\r\n]", " ", text[at:end]))  # none is inside a JSON string
            at = _skip(text, end)
            if text[at : at + 1] == ",":
                at += 1
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    except (ValueError, RecursionError) as error:
        what = f"it is no JSON array ({error})"
        remedy = "Write [{...}, {...}], or one object a line."
        raise InputProblems([Problem(path.name, what, remedy)]) from error
    return "\n".join(lines)


def _skip(text: str, at: int) -> int:
    """The place of the next character that is no white space."""
    while text[at : at + 1].isspace():
        at += 1
    return at


def _jsonl_rows(text: str, name: str, problems: list[Problem], columns: Columns) -> Iterator[Row]:
    """One JSON object a line."""
    for line, row in json_objects(text, name, problems, number=str):
        if problem := _misspelt(row, f"{name}, row {line}", columns):
            problems.append(problem)
            continue
        missing = [key for key in columns.required if key not in row]
        if missing:
            what = f"the key(s) {', '.join(missing)} are missing"
            remedy = f"Each line needs {', '.join(columns.required)}."
            problems.append(Problem(f"{name}, row {line}", what, remedy))
            continue
        asked = (*columns.required, *columns.optional)
        strange = {key: row[key] for key in asked if key in row and not _is_text(row[key])}
        for key, value in strange.items():
            what = f"'{key}' is {_KINDS[type(value)]}, not a text"
            problems.append(Problem(f"{name}, row {line}", what, "Write one text in quotes."))
        if not strange:
            yield line, {key: _cell(value) for key, value in row.items()}


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _cell(value: object) -> str:
    """A JSON value as the text of a cell; lists and the like, which nobody asked for, as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def json_objects(
    text: str, name: str, problems: list[Problem], number: Callable[[str], Any] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL text, with their lines; `problems` grows by lines that hold none.

    Numbers become what `number` makes of them as they are written, NaN None.
    """
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        where = f"{name}, row {line}"
        try:
            row = parse_json(content, parse_int=number, parse_float=number, parse_constant=_missing)
        except ValueError as error:
            problems.append(Problem(where, f"it is not JSON ({error})", "One object a line."))
            continue
        if isinstance(row, dict):
            yield line, row
        else:
            problems.append(Problem(where, "it is no JSON object", 'Write {"id": ..., ...}.'))


def _missing(constant: str) -> None:
    """What pandas writes for a missing cell; an infinity is none."""
    if constant != "NaN":
        raise ValueError(f"{constant} is no value")
