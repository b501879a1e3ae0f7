"""What moved between two runs: another model, precision, adapter or context.

Compares B with A prompt by prompt, at each layer: entropy, KL, rank and probability of the answer,
and when it emerges; with residuals kept by both runs (--keep-residuals) also how far these moved,
and KL between the two lenses. Writes a record and its report.

Examples:

    lensbench lens smollm2-135m smollm2-135m@8 --prompts facts --limit 60 \
        --keep-residuals

    lensbench diff runs/facts/smollm2-135m runs/facts/smollm2-135m-8
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import (
    batch_progress,
    literal,
    results,
    show_problems,
    show_reports,
)
from lensbench.compare.diff.spec import DiffSpec

_AS_USUAL = DiffSpec()


def diff(
    a: Annotated[Path, Parameter(help="A record of `lensbench lens`.")],
    b: Annotated[Path, Parameter(help="Another, of the same prompts.")],
    *,
    out: Annotated[
        Path | None,
        Parameter(("--out", "-o"), help="Folder of the diff. Default: runs/diff-A-B."),
    ] = None,
    how: Annotated[DiffSpec, Parameter("*")] = _AS_USUAL,
) -> int:
    from lensbench.compare.diff.record import run_diff
    from lensbench.report.diff.section import headline_of

    folder = out or Path("runs") / f"diff-{a.resolve().name}-{b.resolve().name}"
    with batch_progress() as progress:
        problems = run_diff(a, b, folder, how, progress)
    show_problems(problems)
    results.print(literal(headline_of(folder)), highlight=False)
    show_reports([folder])
    return 1 if problems else 0
