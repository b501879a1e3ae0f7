"""A study of small models: one training of each seed, and one lineage of all that they kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from lensbench.costs.planned import Planned, plan_outlined, uncounted
from lensbench.pico.analyse import analyse_pico
from lensbench.pico.cost import outlined, request_of, training
from lensbench.pico.seeds import trained
from lensbench.pico.spec import AnalyseSpec, LineageSizes, PicoSpec, PicoStudySpec, Pretraining
from lensbench.progress import Notify, Watch, ignore
from lensbench.records.engine import Outcome
from lensbench.studies.stages.pairs import RUNS

_BESIDE = "workers train whole seeds side by side; the sum counts one after the other"


def run(
    spec: PicoStudySpec, out: Path | str, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Train each seed into `out/.runs/` and measure all of them into `out/lineage/`, or go on.

    Nothing is measured where a seed could not be trained: it is in the outcome. Raises what
    `trained` and `analyse_pico` raise.
    """
    seeds = trained(_trainings(spec, out), Path(out) / RUNS, progress, notify)
    if seeds.failed:
        return Outcome(failed=seeds.failed, problems=seeds.problems)
    sizes = spec.shared(LineageSizes)
    outcome = analyse_pico(
        AnalyseSpec(runs=tuple(seeds.folders), out=Path(out) / "lineage", **sizes), progress
    )
    outcome.problems += [new for new in seeds.problems if new not in outcome.problems]
    return outcome


def plan(spec: PicoStudySpec, out: Path | str) -> Iterator[Planned]:
    """What `run` would make into `out`."""
    for own in _trainings(spec, out):
        made = plan_outlined(
            f"seed {own.seed}",
            request_of(own),
            partial(outlined, own),
            partial(training, own),
            "train",
        )
        yield replace(made, notes=[_BESIDE]) if made.n_workers else made
    why = "its texts are cut by a tokenizer that the first training makes"
    yield uncounted("lineage", Path(out) / "lineage", why)


def _trainings(spec: PicoStudySpec, out: Path | str) -> list[PicoSpec]:
    common = spec.shared(Pretraining)
    return [
        PicoSpec(out=Path(out) / RUNS / f"seed-{seed}", seed=seed, **common)
        for seed in range(spec.seeds)
    ]
