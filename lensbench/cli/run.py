"""`lensbench run`: an analysis from its declaration to its reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lensbench.cli.options import Device, Dtype

if TYPE_CHECKING:
    from lensbench.spec import Spec
    from lensbench.studies.lens_spec import RunSpec


def run(
    analysis: Annotated[Path, typer.Argument(help="A folder with an analysis.toml.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Run folder. Default: reports/<name of the analysis>."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Prompts to ask (pairs to take, in an adapter study).")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Ask every prompt.")] = False,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Run an analysis, or go on with it, and write its records and reports.

    Everything measured is written batch by batch: interrupt it at any time and run it again. A
    model or a prompt that cannot be measured is reported and the rest goes on (exit status 1).

    Examples:

        lensbench run analyses/001_when_does_it_know

        lensbench run analyses/001_when_does_it_know --all --out runs/everything
    """
    from lensbench.studies.analysis import read_analysis
    from lensbench.studies.lens_spec import RunSpec

    if everything and limit is not None:
        raise typer.BadParameter("give --all or --limit, not both")
    spec = read_analysis(analysis)
    home = analysis if analysis.is_dir() else analysis.parent
    folder = out or Path("reports") / home.resolve().name
    if everything or limit is not None:
        spec = spec.changed(limit=limit)
    if device is not None:
        spec = spec.changed(device=device)
    if not isinstance(spec, RunSpec):
        if dtype is not None:
            raise typer.BadParameter("this analysis has bits in its file, not a dtype")
        study_and_report(spec, folder)
        return
    if dtype is not None:
        spec = spec.changed(dtype=dtype.value)
    run_and_report(spec, folder)


def run_and_report(spec: RunSpec, out: Path) -> None:
    """Measure, then build every report of what is complete. Exits with 1 if something failed."""
    from lensbench.cli.console import (
        batch_progress,
        failure,
        interruptible,
        show_problems,
    )
    from lensbench.studies.lens import run as measure

    with interruptible():
        with batch_progress() as progress:
            outcome = measure(spec, out, progress)
        show_problems(outcome.problems)
        for name, error in outcome.failed.items():
            failure(f"{name}: {error}")
        if outcome.folders:
            # Sorted as `lensbench report` finds them, so that both give the same bytes.
            show_reports(sorted(outcome.folders), out)
    if not outcome.ok:
        raise typer.Exit(1)


def show_reports(folders: Sequence[Path], out: Path) -> None:
    """Build the reports of some records and say which files to read."""
    from lensbench.cli.console import messages, results
    from lensbench.report.build import build_report

    with messages.status("writing reports"):
        written = build_report(folders, out)
    for path in written:
        if path.suffix in {".md", ".html"}:
            results.print(str(path), markup=False, highlight=False, soft_wrap=True)


def study_and_report(spec: Spec, out: Path) -> None:
    """Run every stage of a study, then its reports. Exits with 1 if something was left out."""
    from lensbench.cli.console import (
        batch_progress,
        interruptible,
        literal,
        messages,
        show_problems,
    )
    from lensbench.studies.base import run_study

    with interruptible():
        with batch_progress() as progress:
            outcome = run_study(spec, out, progress, lambda text: messages.print(literal(text)))
        show_problems(outcome.problems)
        if outcome.folders:
            show_reports([out], out)
    if outcome.problems:
        raise typer.Exit(1)
