"""Join prompts and responses by id into one CSV.

Rows without a counterpart, with an id seen before or with nothing in them are skipped and listed,
here and in a `.problems.csv` beside the output (exit status 1). A quote that `lensbench infer` put
before a leading = + - @ in a response is taken off first. The columns are those of the prompts,
the response, and what else stands beside the responses.

Example:

    lensbench data merge prompts.csv responses.csv -o merged.csv
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import say
from lensbench.cli.quantized.data.files import Out, require_new, skip
from lensbench.errors import InputProblems, Problem
from lensbench.escape import csv_of
from lensbench.files import write_text


def merge(
    prompts: Annotated[Path, Parameter(help="A .csv, .jsonl or .json with id, prompt.")],
    responses: Annotated[Path, Parameter(help="A .csv, .jsonl or .json with id, response.")],
    *,
    out: Out,
) -> int:
    from lensbench.quantized.data.merge import merge as join

    require_new(out, [prompts, responses], ".csv")
    made = join(prompts, responses)
    if not made.rows:
        what = "no prompt has a response"
        raise InputProblems([*made.problems, Problem(str(out), what, "Check that the ids match.")])
    write_text(out, csv_of([made.columns, *(list(row.values()) for row in made.rows)]))
    say(f"{out}: {len(made.rows):,} pairs")
    return skip(made.problems, out.with_suffix(".problems.csv"))
