"""Prompts and responses, two files with one id, as one table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lensbench.errors import InputProblems, Problem
from lensbench.escape import csv_text
from lensbench.prompts.rows import Row, place, read_rows, row_problems
from lensbench.quantized.data.pairs import INSTRUCTION, RESPONSE

# What a file of responses says of the question; the prompts' own file counts.
_ASKED = ("id", *INSTRUCTION, "input", "system")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merged:
    """The joined rows, in the order of the prompts, each with a cell in every column."""

    columns: list[str]
    rows: list[dict[str, str]]
    problems: list[Problem]


@dataclass
class _File:
    """One side of the join: its good rows by id, and the row of every id it has.

    `column` is the one that it is needed for; `named` whether its rows have ids of their own.
    """

    name: str
    column: str
    columns: list[str]
    named: bool
    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)


def merge(prompts: Path, responses: Path) -> Merged:
    """Join prompts with responses by their ids, in the order of the prompts.

    The columns are those of the prompts, the response, and what else the file of responses says.
    A response that the prompts have already gives way to the other file's. Where neither file has
    ids, and both have as many rows, they are joined row by row.

    Everything skipped is a problem: a row without its counterpart, a second row of the same id,
    an empty id, prompt or response. The prompts are taken as they stand, as `infer` takes them; a
    CSV of responses is read as `escape.csv_cell` wrote it, so that each response is the model's own
    text to the letter.

    Raises:
        InputProblems: a file that cannot be read, lacks a column, or has no ids while the other
            one has.
        OSError: no such file.
    """
    problems: list[Problem] = []
    asked = _read(prompts, INSTRUCTION, problems)
    escaped = responses.suffix.lower() == ".csv"
    answered = _read(responses, RESPONSE, problems, escaped)
    _require_ids(asked, answered)
    problems += _unmatched(asked, answered, "response")
    problems += _unmatched(answered, asked, "prompt")
    own = next((name for name in asked.columns if name in RESPONSE), None)
    if own is not None:
        _log.warning("the %s of %s gives way to that of %s", own, asked.name, answered.name)
    target = own or answered.column
    taken = {*asked.columns, *_ASKED, *RESPONSE}
    further = [name for name in answered.columns if name not in taken]
    columns = [*asked.columns, *([] if own else [target]), *further]
    rows = []
    for item, cells in asked.cells.items():
        if item in answered.cells:
            found = answered.cells[item]
            row = cells | {name: found.get(name, "") for name in further}
            rows.append(row | {target: found[answered.column]})
    return Merged(
        columns, [{name: row.get(name, "") for name in columns} for row in rows], problems
    )


def _read(
    path: Path, names: Sequence[str], problems: list[Problem], escaped: bool = False
) -> _File:
    """The rows of one side; a bad one is a problem, and its id still counts as present."""

    def rows(problems: list[Problem]) -> Iterator[Row]:
        return read_rows(path, path.name, problems, (), ("id", *names), empty=True)

    found = [cells for _, cells in rows([])]  # again below: problems come in the order of the rows
    columns = list(dict.fromkeys(name for cells in found for name in cells))
    column = _only_column(path.name, names, columns)
    named = any(cells.get("id", "").strip() for cells in found)
    file = _File(path.name, column, columns, named)
    for number, (line, raw) in enumerate(rows(problems), start=1):
        cells = {key: csv_text(cell) for key, cell in raw.items()} if escaped else dict(raw)
        item = cells.get("id", "") if named else f"p{number}"
        checked = cells | {"id": item, column: cells.get(column, "")}
        wrong = list(row_problems(checked, (column,), file.rows))
        where = place(path.name, line, item)
        problems += [Problem(where, what, remedy, item or None) for what, remedy in wrong]
        file.rows.setdefault(item, line)
        if not wrong:
            file.cells[item] = cells
    return file


def _only_column(name: str, names: Sequence[str], columns: Sequence[str]) -> str:
    """The one column of these names. Raises InputProblems when there is none, or more than one."""
    there = [column for column in names if column in columns]
    if len(there) != 1:
        has = ", ".join(columns) or "none"
        what = f"it needs one column called {' or '.join(names)}; it has {has}"
        raise InputProblems([Problem(name, what, "Rename or delete columns.")])
    return there[0]


def _require_ids(asked: _File, answered: _File) -> None:
    """Both files have ids; or one has those that rows without any are called by (p1, p2, ...).

    Where neither has, they are alike row by row, as far as their number tells.
    """
    if asked.named and answered.named:
        return
    if asked.named or answered.named:
        named, bare = (asked, answered) if asked.named else (answered, asked)
        if named.rows.keys() <= bare.rows.keys():
            _log.warning("no row of %s has an id: they are called p1, p2, ...", bare.name)
            return
        what = "no row of it has an id, and the other file's have"
        raise InputProblems([Problem(bare.name, what, "Give its rows the ids of the other.")])
    if len(asked.rows) != len(answered.rows):
        what = (
            f"neither file has ids, and they have {len(asked.rows)} and {len(answered.rows)} rows"
        )
        raise InputProblems([Problem(answered.name, what, "Give both files the same ids.")])
    _log.warning("neither %s nor %s has ids: joined row by row", asked.name, answered.name)


def _unmatched(here: _File, there: _File, what: str) -> list[Problem]:
    return [
        Problem(
            f"{here.name}, row {here.rows[item]}, id {item}",
            f"no {what} has this id in {there.name}",
            "Add it, or delete the row.",
            item,
        )
        for item in here.cells
        if item not in there.rows
    ]
