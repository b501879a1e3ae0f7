"""Rebuild all reports of one or more runs from their records.

No model and no torch needed. Of every record a Markdown report with figures and tables, and an
interactive report.html (of lens records one, over all models); report.md in the run's folder is the
index over them, with what they say side by side. The same records give the same bytes.

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
