"""Join prompts and responses by id into one CSV.

Rows without a counterpart, with an id seen before or with nothing in them are skipped and listed,
here and in a `.problems.csv` beside the output (exit status 1). A quote that `lensbench infer` put
before a leading = + - @ in a response is taken off first.

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


def merge(
    prompts: Annotated[Path, Parameter(help="A .csv or .jsonl with id, prompt.")],
    responses: Annotated[Path, Parameter(help="A .csv or .jsonl with id, response.")],
    *,
    out: Out,
) -> int:
    from lensbench.quantized.data.merge import merge as join
    from lensbench.quantized.data.pairs import write_csv

    require_new(out, [prompts, responses], ".csv")
    pairs, problems = join(prompts, responses)
    if not pairs:
        what = "no prompt has a response"
        raise InputProblems([*problems, Problem(str(out), what, "Check that the ids match.")])
    write_csv(out, pairs)
    say(f"{out}: {len(pairs):,} pairs")
    return skip(problems, out.with_suffix(".problems.csv"))
