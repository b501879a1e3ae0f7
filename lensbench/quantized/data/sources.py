"""Where pairs come from: what ships with lensbench, a file, or a data set on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lensbench.errors import InputProblems, ModelError, Problem, first_line
from lensbench.quantized.data.docstrings import docstring_pairs
from lensbench.quantized.data.pairs import Pair, read_pairs
from lensbench.quantized.data.shipped import general_pairs, python_reference

GENERAL, DOCSTRINGS, PYTHON = "general", "docstrings", "python_reference"
_COLUMNS = ("instruction", "output")  # of an Alpaca data set; `input` is optional


def pairs_of(source: str) -> tuple[list[Pair], list[Problem]]:
    """The pairs of a source: a shipped one, a .jsonl, .json or .csv, or org/name on a hub.

    Shipped are `general`, `docstrings` and `python_reference`.

    Raises:
        InputProblems: no such source, or a file without a usable row.
        ModelError: the hub cannot be reached, or has no such data set.
    """
    shipped = {GENERAL: general_pairs, DOCSTRINGS: docstring_pairs, PYTHON: python_reference}
    if source in shipped:
        return shipped[source](), []
    path = Path(source).expanduser()
    if path.is_file():
        found = read_pairs(path)
        return found.pairs, found.problems
    if path.is_dir() or (source.count("/") == 1 and all(source.split("/"))):
        return _hub_pairs(source)
    what = "there is no such file, shipped set or data set on the hub"
    remedy = f"Give {', '.join(shipped)}, a .jsonl, .json or .csv file, or org/name."
    raise InputProblems([Problem(source, what, remedy)])


def _hub_pairs(name: str) -> tuple[list[Pair], list[Problem]]:
    """A data set with Alpaca's columns, by hub name or from a local copy of its folder."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(name, split="train")
    except (DatasetsError, OSError, ValueError) as error:
        reason = first_line(error)
        raise ModelError(
            f"The data set {name} cannot be loaded from the hub: {reason}. Check the name and the "
            "connection, or give a .jsonl file."
        ) from error
    missing = [column for column in _COLUMNS if column not in rows.column_names]
    if missing:
        what = f"it has no column {', '.join(missing)}, but {', '.join(rows.column_names)}"
        raise InputProblems([Problem(name, what, "Convert it with `lensbench data to-jsonl`.")])
    pairs, problems = [], []
    for number, row in enumerate(rows):
        if row["instruction"].strip() and row["output"].strip():
            pairs.append(_alpaca_pair(f"{name}:{number}", row))
        else:
            where, what = f"{name}, row {number}", "instruction or output is empty"
            problems.append(Problem(where, what, "It is skipped."))
    return pairs, problems


def _alpaca_pair(item: str, row: dict[str, Any]) -> Pair:
    return Pair(item, row["instruction"], row["output"], input=row.get("input") or "")
