"""Prompts and responses, two files with one id, as pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lensbench.errors import Problem
from lensbench.escape import csv_text
from lensbench.prompts.rows import place, read_rows, row_problems
from lensbench.quantized.data.pairs import Pair

_CARRIED = ("input", "system", "group")  # columns of the prompts that stay with the pair


@dataclass
class _File:
    """One side of the join: its good rows by id, and the row of every id it has."""

    name: str
    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)


def merge(prompts: Path, responses: Path) -> tuple[list[Pair], list[Problem]]:
    """Join `id, prompt` with `id, response`, in the order of the prompts.

    Everything skipped is a problem: a row without its counterpart, a second row of the same id,
    an empty id, prompt or response. The prompts are taken as they stand, as `infer` takes them; a
    CSV of responses is read as `escape.csv_cell` wrote it, so that each response is the model's own
    text to the letter.

    Raises:
        InputProblems: a file that cannot be read or lacks a column.
        OSError: no such file.
    """
    problems: list[Problem] = []
    asked = _read(prompts, "prompt", problems, _CARRIED)
    answered = _read(responses, "response", problems, escaped=responses.suffix.lower() == ".csv")
    problems += _unmatched(asked, answered, "response")
    problems += _unmatched(answered, asked, "prompt")
    pairs = [
        Pair(
            id=item,
            instruction=cells["prompt"],
            response=answered.cells[item]["response"],
            input=cells.get("input", ""),
            system=cells.get("system", ""),
            group=cells.get("group") or None,
        )
        for item, cells in asked.cells.items()
        if item in answered.cells
    ]
    return pairs, problems


def _read(
    path: Path,
    column: str,
    problems: list[Problem],
    optional: tuple[str, ...] = (),
    escaped: bool = False,
) -> _File:
    """The rows of one side; a bad one is a problem, and its id still counts as present."""
    file = _File(path.name)
    for line, raw in read_rows(path, path.name, problems, ("id", column), optional, empty=True):
        cells = {key: csv_text(cell) for key, cell in raw.items()} if escaped else raw
        item = cells["id"]
        found = list(row_problems(cells, (column,), file.rows))
        where = place(path.name, line, item)
        problems += [Problem(where, what, remedy, item or None) for what, remedy in found]
        file.rows.setdefault(item, line)
        if not found:
            file.cells[item] = cells
    return file


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
