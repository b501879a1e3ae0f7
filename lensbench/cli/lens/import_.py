"""Check what another tool measured and make a record of it, which reports read as any other.

Ranges, keys, duplicates, completeness and contradictions are checked, and all that is wrong is
listed at once, by file and row. Milestones are made anew. The record says who measured it and who
imported it, through which lens it was read, and that its gate is imported: never passed. Columns
are those of reports/data-dictionary.md, the manifest that goes with them that of
reports/import-manifest.schema.json. Without --out the data are only checked.

Examples:

    lensbench import theirs -o runs/theirs/llama-3-8b

    lensbench import lens.csv --from csv --prompts prompts.csv \
        -o runs/theirs/llama-3-8b

    lensbench import trajectories --from tuned-lens --tokenizer gpt2 \
        -o runs/theirs/gpt2

    lensbench import results --from transformer-lens --manifest about.json \
        -o runs/theirs/gpt2
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import say, show_problems
from lensbench.lens.importing.spec import ImportSpec


def import_(spec: Annotated[ImportSpec, Parameter("*")]) -> int:
    from lensbench.lens.importing.record import run

    checked = run(spec)
    rows = f"{len(checked.prompts)} prompts, {len(checked.lens)} rows of {checked.told.model.name}"
    say(f"{rows}: sound" if spec.out is None else f"{rows} imported to {spec.out}")
    show_problems(checked.notes)
    return 1 if checked.notes else 0
