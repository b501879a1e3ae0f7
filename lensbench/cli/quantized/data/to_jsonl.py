"""Write pairs as JSON Lines for instruction tuning.

A CSV needs the columns prompt (or instruction, question) and response (or output, answer); id,
input, system and group are taken along.

Examples:

    lensbench data to-jsonl merged.csv -o data.jsonl

    lensbench data to-jsonl merged.csv -o chat.jsonl --format messages \
        --system "Be brief."
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import say
from lensbench.cli.quantized.data.files import Out, require_new, skip
from lensbench.errors import InputProblems, Problem
from lensbench.quantized.data.pairs import Form, read_pairs, write_jsonl


def to_jsonl(
    pairs: Annotated[
        Path, Parameter(help="A .csv of pairs, or a .jsonl or .json in either format.")
    ],
    *,
    out: Out,
    form: Annotated[
        Form, Parameter("--format", help="alpaca: instruction and response; messages: chat.")
    ] = "alpaca",
    system: Annotated[
        str | None, Parameter(help="With --format messages: a system message for every row.")
    ] = None,
) -> int:
    if system is not None and form == "alpaca":
        what = "it has no effect with --format alpaca"
        raise InputProblems([Problem("--system", what, "Leave it out.")])
    require_new(out, [pairs], ".jsonl")
    found = read_pairs(pairs)
    rows = found.pairs
    if system is not None:
        rows = [dataclasses.replace(pair, system=system) for pair in rows]
    write_jsonl(out, rows, form)
    say(f"{out}: {len(rows):,} pairs")
    return skip(found.problems, out.with_suffix(".problems.csv"))
