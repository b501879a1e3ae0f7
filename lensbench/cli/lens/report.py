"""Rebuild all reports of one or more runs from their records.

No model and no torch needed. Of lens records: a Markdown report with figures and tables per model,
cross-model.md when there are two models or more, and one interactive report.html. Of every other
record: a report each, with an index over them; of correlations, diffs and placements a report.html
each too. The same records give the same bytes.

Examples:

    lensbench report runs/facts

    lensbench report runs/fp32 runs/int8 --out reports/quantised
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import show_reports


def report(
    runs: Annotated[
        tuple[Path, ...], Parameter(help="Run folders; all records beneath them are used.")
    ],
    *,
    out: Annotated[
        Path | None,
        Parameter(("--out", "-o"), help="Where the reports go. Default: the first run folder."),
    ] = None,
) -> None:
    show_reports(runs, out)
