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

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import (
    batch_progress,
    failure,
    messages,
    note,
    show_problems,
    show_reports,
)
from lensbench.cli.lens.asked import Asked
from lensbench.cli.options import Workers
from lensbench.cli.planned import show_plan
from lensbench.cluster.spec import WorkersSpec
from lensbench.spec import Spec
from lensbench.studies.specs.attention import AttentionSpec
from lensbench.studies.specs.lens import RunSpec
from lensbench.threads import threads


def run(
    asked: Annotated[Asked, Parameter("*")],
    *,
    pull: Annotated[
        bool,
        Parameter(help="Fetch models that are not here, the next while one is measured."),
    ] = False,
    workers: Workers = None,
) -> int:
    import torch  # noqa: F401  (threads are those that torch sums with)

    from lensbench.checkpoints.open import opened
    from lensbench.cluster.workers import require_reachable
    from lensbench.records.manifest import as_planned
    from lensbench.studies.analysis import plan
    from lensbench.studies.stages.turns import fetching

    spec = asked.read()
    if workers is not None and not workers.here:
        spec.require_shareable()
        require_reachable(workers)  # a plan takes long, and would be of no use
    folder = asked.folder
    with batch_progress() as progress, threads(workers.threads if workers else None):
        planned = plan(spec, folder, progress, n_workers(workers))
    show_plan(planned, messages)
    with as_planned(planned.by_folder()), fetching(pull), opened(planned.tokenizers):
        return run_and_report(spec, folder, workers)


def n_workers(workers: WorkersSpec | None) -> int | None:
    """Workers on this machine, for which a plan can be made; None of a cluster's."""
    return None if workers is None or workers.ray is not None else workers.workers


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
        if outcome.failed:  # the reasons stand above, out of sight by now
            failure(f"not measured: {', '.join(outcome.failed)}")
    return 0 if outcome.ok else 1
