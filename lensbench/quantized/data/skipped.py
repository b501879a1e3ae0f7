"""The list of rows that were skipped, beside what was made of the others."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from lensbench.errors import Problem
from lensbench.escape import csv_cell
from lensbench.files import write_text


def write_skipped(problems: Sequence[Problem], path: Path) -> None:
    """Which rows were skipped and why, as CSV; without any the list of an earlier run goes."""
    if not problems:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(("id", "where", "what", "remedy"))
    for problem in problems:
        cells = (problem.prompt_id or "", problem.where, problem.what, problem.remedy)
        writer.writerow(map(csv_cell, cells))
    write_text(path, text.getvalue())
