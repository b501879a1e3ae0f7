"""Run an analysis, or go on with it, and write its records and reports.

What it will take is said first (see `lensbench plan`). Everything measured is written batch by
batch: interrupt it at any time and run it again. A model or a prompt that cannot be measured is
reported and the rest goes on (exit status 1). One model is in memory at a time; the files of the
next are read meanwhile, if they fit beside it.

Examples:

    lensbench run analyses/001_when_does_it_know

    lensbench run analyses/001_when_does_it_know --all --out runs/everything

    lensbench run analyses/001_when_does_it_know --workers 2

    lensbench run analyses/001_when_does_it_know --pull
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lensbench.cli.console import (
    batch_progress,
    failure,
    messages,
    note,
    show_problems,
    show_reports,
)
from lensbench.cli.options import (
    Analysis,
    Everything,
    Limit,
    OnlyLenses,
    OtherDevice,
    OtherDtype,
    OtherProducts,
    RunFolder,
    Workers,
)
from lensbench.cli.planned import show_plan
from lensbench.cluster.spec import WorkersSpec
from lensbench.errors import InputProblems, Problem
from lensbench.spec import Spec
from lensbench.studies.specs.attention import AttentionSpec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.specs.transfer import TransferSpec
from lensbench.threads import threads


def run(
    analysis: Analysis,
    *,
    out: RunFolder = None,
    lens: OnlyLenses = (),
    limit: Limit = None,
    everything: Everything = False,
    dtype: OtherDtype = None,
    products: OtherProducts = None,
    device: OtherDevice = None,
    pull: Annotated[
        bool,
        Parameter(help="Fetch models that are not here, the next while one is measured."),
    ] = False,
    workers: Workers = None,
) -> int:
    import torch  # noqa: F401  (threads are those that torch sums with)

    from lensbench.checkpoints.open import opened
    from lensbench.records.recording import as_planned
    from lensbench.studies.analysis import plan, require_jobs, results_folder
    from lensbench.studies.stages.turns import fetching

    spec = asked(analysis, lens, limit, everything, dtype, products, device)
    if workers is not None and not workers.here:
        require_jobs(spec)
    folder = out or results_folder(analysis)
    with batch_progress() as progress, threads(workers.threads if workers else None):
        planned = plan(spec, folder, progress)
    show_plan(planned, messages)
    with as_planned(planned.by_folder()), fetching(pull), opened(planned.tokenizers):
        return run_and_report(spec, folder, workers)


def asked(
    analysis: Path,
    lens: Sequence[str],
    limit: int | None,
    everything: bool,
    dtype: str | None,
    products: str | None,
    device: str | None,
) -> Spec:
    """An analysis with what the command line changes in it.

    Raises InputProblems for changes without an effect, and with all that is wrong with its file.
    """
    from lensbench.studies.analysis import read_analysis

    if everything and limit is not None:
        raise InputProblems([Problem("--limit", "--all is given too", "Leave out one of them.")])
    spec = read_analysis(analysis)
    if dtype is not None and not isinstance(spec, RunSpec | TransferSpec):
        what = "this analysis has bits in its file, not a dtype"
        raise InputProblems([Problem("--dtype", what, "Leave it out.")])
    if products is not None and not isinstance(spec, RunSpec):
        what = "this analysis reads no lens over prompts"
        raise InputProblems([Problem("--products", what, "Leave it out.")])
    chosen = {"limit": limit, "dtype": dtype, "device": device, "products": products}
    changes = {name: value for name, value in chosen.items() if value is not None}
    if lens:
        changes |= _only(spec, lens)
    return spec.changed(**changes | ({"limit": None} if everything else {}))


def _only(spec: Spec, lenses: Sequence[str]) -> dict[str, Any]:
    """Some of a study's lenses, and the fits of these. Raises InputProblems."""
    if not isinstance(spec, RunSpec | TransferSpec):
        what = "this analysis does not say which lenses are read"
        raise InputProblems([Problem("--lens", what, "Leave it out.")])
    remedy = f"It has {', '.join(spec.lenses)}."
    if strange := [one for one in lenses if one not in spec.lenses]:
        raise InputProblems(
            [Problem("--lens", f"the analysis has no lens {one}", remedy) for one in strange]
        )
    return {"lenses": lenses, "fit": {one: spec.fit[one] for one in lenses if one in spec.fit}}


def run_and_report(spec: Spec, out: Path, workers: WorkersSpec | None = None) -> int:
    """Measure, then build every report of what is complete; 1 if something failed."""
    from lensbench.studies.analysis import run_analysis

    with batch_progress(workers) as progress:
        outcome = run_analysis(spec, out, progress, note)
    show_problems(outcome.problems)
    for name, error in outcome.failed.items():
        failure(f"{name}: {error}")
    if outcome.folders:
        # Sorted as `lensbench report` finds them, so that both give the same bytes.
        models_alone = isinstance(spec, RunSpec) and not spec.fit
        some_failed = isinstance(spec, AttentionSpec) and outcome.failed  # half-way, perhaps
        whole = sorted(outcome.folders) if models_alone or some_failed else [out]
        show_reports(whole, out)
    return 0 if outcome.ok else 1
