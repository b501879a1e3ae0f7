"""Files that the verbs write, and rows that they skip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import show_problems
from lensbench.errors import InputProblems, Problem
from lensbench.escape import csv_of
from lensbench.files import write_text

Out = Annotated[Path, Parameter(("--out", "-o"), help="The file to write.")]


def require_new(out: Path, inputs: Sequence[Path], suffix: str) -> None:
    """The output has the right kind of name and is none of the inputs. Raises InputProblems."""
    if out.suffix.lower() != suffix:
        raise InputProblems([Problem("--out", f"{out} must end in {suffix}", "Rename it.")])
    if out.resolve() in [path.resolve() for path in inputs]:
        raise InputProblems([Problem("--out", f"{out} is one of the inputs", "Give another name.")])


def skip(problems: Sequence[Problem], path: Path) -> int:
    """Say which rows were skipped and keep the list in a file; 1 if there are any.

    Without any, the list of an earlier run goes.
    """
    if not problems:
        path.unlink(missing_ok=True)
        return 0
    rows = [(p.prompt_id or "", p.where, p.what, p.remedy) for p in problems]
    write_text(path, csv_of([("id", "where", "what", "remedy"), *rows]))
    show_problems(problems, path)
    return 1
