"""Prompt sets: CSV or JSONL files, and the one that ships with lensbench (`facts`).

A bad row is reported with its file, row and remedy, and the rest goes on; a file that cannot be
read at all raises.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lensbench.errors import InputProblems, Problem
from lensbench.files import sha256_of
from lensbench.prompts.prompt import Prompt

REQUIRED = ("id", "relation", "prompt", "answer")
_OPTIONAL = ("category", "subject", "control_of", "paraphrase_of", "reverse_of")
_LINKS = ("control_of", "paraphrase_of", "reverse_of")
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell it; nothing can tokenise it
_MAX_CELL = 100_000  # characters; no context window of a model here holds more
_SAVE_AS = "Save the file as UTF-8; spreadsheets call it 'CSV UTF-8'."
_DATA = resources.files("lensbench").joinpath("prompts", "data")

Row = tuple[int, dict[str, str]]  # the line it starts on, and its cells


@dataclass(frozen=True)
class PromptSet:
    """The good rows of a file, and what is wrong with the others."""

    name: str
    sha256: str
    prompts: list[Prompt]
    problems: list[Problem]

    @property
    def relations(self) -> list[str]:
        """Relations in the order of the file."""
        return list(dict.fromkeys(prompt.relation for prompt in self.prompts))

    def only(self, relations: Sequence[str]) -> PromptSet:
        """The rows of some relations. Raises InputProblems when one does not exist."""
        unknown = sorted(set(relations) - set(self.relations))
        if unknown:
            what = f"there is no relation {', '.join(map(repr, unknown))}"
            remedy = f"It has: {', '.join(self.relations)}."
            raise InputProblems([Problem(self.name, what, remedy)])
        kept = [prompt for prompt in self.prompts if prompt.relation in relations]
        return PromptSet(self.name, self.sha256, kept, self.problems)


def shipped() -> list[str]:
    """Names of the prompt sets that travel with lensbench."""
    names = [entry.name for entry in _DATA.iterdir()]
    return sorted(name.removesuffix(".csv") for name in names if name.endswith(".csv"))


def load_prompts(source: str | Path) -> PromptSet:
    """Read a prompt set by shipped name or file (.csv, .jsonl).

    Raises:
        InputProblems: no such file, wrong encoding, missing columns, or not one usable row.
    """
    if str(source) in shipped():
        with resources.as_file(_DATA.joinpath(f"{source}.csv")) as path:
            return _read_file(path, str(source))
    path = Path(source)
    if not path.is_file():
        what = "there is no such file, nor a shipped prompt set of that name"
        remedy = f"Shipped sets: {', '.join(shipped())}. Or give a .csv or .jsonl file."
        raise InputProblems([Problem(str(source), what, remedy)])
    return _read_file(path, path.name)


def _read_file(path: Path, name: str) -> PromptSet:
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in readers:
        what = f"'{path.suffix}' is no known kind of prompt file"
        raise InputProblems([Problem(name, what, "Save it as .csv or .jsonl.")])
    problems: list[Problem] = []
    rows = readers[path.suffix.lower()](_text_of(path, name), name, problems)
    prompts = list(_prompts(rows, name, problems))
    prompts = _linked(prompts, name, problems)
    if not prompts:
        problems.append(Problem(name, "it has no usable row", "Add rows, or mend those above."))
        raise InputProblems(problems)
    return PromptSet(name, sha256_of(path), prompts, problems)


def _text_of(path: Path, name: str) -> str:
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


def _csv_rows(text: str, name: str, problems: list[Problem]) -> Iterator[Row]:
    """Rows of a CSV, cells with line ends in them included."""
    csv.field_size_limit(max(len(text), csv.field_size_limit()))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        problem = Problem(f"{name}, row 1", f"the header is not CSV ({error})", "Close the quotes.")
        raise InputProblems([problem]) from error
    _require_columns(header, name)
    start = reader.line_num + 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not any(cells):
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


def _require_columns(header: list[str], name: str) -> None:
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        what = (
            f"the column(s) {', '.join(missing)} are missing; it has {', '.join(header) or 'none'}"
        )
        remedy = f"The header needs {', '.join(REQUIRED)}; optional: {', '.join(_OPTIONAL)}."
        raise InputProblems([Problem(name, what, remedy)])


def _jsonl_rows(text: str, name: str, problems: list[Problem]) -> Iterator[Row]:
    """One JSON object a line."""
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        where = f"{name}, row {line}"
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            problems.append(Problem(where, f"it is not JSON ({error})", "One object a line."))
            continue
        missing = [key for key in REQUIRED if key not in row] if isinstance(row, dict) else ["id"]
        if missing:
            what = f"the key(s) {', '.join(missing)} are missing"
            problems.append(Problem(where, what, f"Each line needs {', '.join(REQUIRED)}."))
            continue
        yield line, {key: "" if value is None else str(value) for key, value in row.items()}


def _prompts(rows: Iterator[Row], name: str, problems: list[Problem]) -> Iterator[Prompt]:
    """Rows as Prompts; rows that cannot be used become problems."""
    seen: dict[str, int] = {}
    for line, cells in rows:
        found = list(_row_problems(cells, seen))
        if found:
            item = cells["id"] or None
            where = f"{name}, row {line}" + (f", id {item}" if item else "")
            problems += [Problem(where, what, remedy, item) for what, remedy in found]
            continue
        seen[cells["id"]] = line
        known = {key: cells[key] or None for key in _OPTIONAL if key in cells}
        extra = {k: v for k, v in cells.items() if k not in (*REQUIRED, *_OPTIONAL)}
        yield Prompt(
            id=cells["id"],
            prompt=cells["prompt"],
            relation=cells["relation"],
            answer=cells["answer"] or None,
            row=line,
            extra=extra,
            **known,
        )


def _row_problems(cells: dict[str, str], seen: dict[str, int]) -> Iterator[tuple[str, str]]:
    """What is wrong with one row, and what to do."""
    if not cells["id"].strip():
        yield "the id is empty", "Give each row an id of its own."
    elif cells["id"] in seen:
        yield f"the id was used in row {seen[cells['id']]} before", "Give each row its own id."
    if not cells["prompt"].strip():
        yield "the prompt is empty", "Write a prompt or delete the row."
    if not cells["relation"].strip():
        yield "the relation is empty", "Name the kind of question, such as 'capital'."
    for column, cell in cells.items():
        if len(cell) > _MAX_CELL:
            what = f"the cell '{column}' has {len(cell):,} characters"
            yield what, f"At most {_MAX_CELL:,} are taken; a quote may be missing before it."
        if "\0" in cell:
            yield f"there is a NUL byte in '{column}'", "Save the file as plain UTF-8 text."
        if not cell.isascii() and _SURROGATE.search(cell):
            yield f"there is half a character (a lone surrogate) in '{column}'", "Write it whole."


def _linked(prompts: list[Prompt], name: str, problems: list[Problem]) -> list[Prompt]:
    """Rows whose links lead to a base row; the others become problems."""
    ids = {prompt.id for prompt in prompts if prompt.is_base}
    kept = []
    for prompt in prompts:
        links = {column: getattr(prompt, column) for column in _LINKS}
        broken = [f"{column} = {to}" for column, to in links.items() if to and to not in ids]
        if not broken:
            kept.append(prompt)
            continue
        where = f"{name}, row {prompt.row}, id {prompt.id}"
        what = f"{', '.join(broken)} is not the id of a base row"
        problems.append(Problem(where, what, "Name a row that has no such link itself.", prompt.id))
    return kept
