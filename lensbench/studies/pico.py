"""A study of small models: one training of each seed, and one lineage of all that they kept."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lensbench.costs.planned import Planned, plan_outlined, uncounted
from lensbench.pico.analyse import analyse_pico
from lensbench.pico.cost import outlined, request_of, training
from lensbench.pico.spec import AnalyseSpec, LineageSizes, PicoSpec, PicoStudySpec, Pretraining
from lensbench.pico.train import train_pico
from lensbench.progress import Notify, Watch, ignore
from lensbench.records.engine import Outcome, require_here


def run(
    spec: PicoStudySpec, out: Path | str, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Train each seed into `out/.runs/` and measure all of them into `out/lineage/`, or go on.

    Raises what `train_pico` and `analyse_pico` raise.
    """
    require_here(spec)
    runs, problems = [], []
    for seed in range(spec.seeds):
        folder = _folder(out, seed)
        notify(f"seed {seed} of {spec.seeds}")
        made = PicoSpec(out=folder, seed=seed, **spec.shared(Pretraining))
        problems += train_pico(made, progress, notify).problems
        runs.append(folder)
    sizes = spec.shared(LineageSizes)
    outcome = analyse_pico(
        AnalyseSpec(runs=tuple(runs), out=Path(out) / "lineage", **sizes), progress
    )
    outcome.problems += [problem for problem in problems if problem not in outcome.problems]
    return outcome


def plan(spec: PicoStudySpec, out: Path | str) -> Iterator[Planned]:
    """What `run` would make into `out`."""
    for seed in range(spec.seeds):
        own = PicoSpec(out=_folder(out, seed), seed=seed, **spec.shared(Pretraining))
        yield plan_outlined(
            f"seed {seed}", request_of(own), partial(outlined, own), partial(training, own), "train"
        )
    why = "it reads the steps that the trainings keep"
    yield uncounted("lineage", Path(out) / "lineage", why)


def _folder(out: Path | str, seed: int) -> Path:
    return Path(out) / ".runs" / f"seed-{seed}"
