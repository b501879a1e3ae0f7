"""A diff study: the lens over every variant of every model, and what moved from the first one.

The lens records are in `.runs`, resumable and not made again; beneath the study's folder is one
comparison for each further variant.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef, model_refs
from lensbench.compare.diff.cost import comparison
from lensbench.compare.diff.record import run_diff, settings_of
from lensbench.compare.diff.spec import DiffSpec
from lensbench.costs.outlined import Outlined
from lensbench.costs.planned import Jobs, Planned, plan_record
from lensbench.errors import Problem
from lensbench.models.model import LensModel
from lensbench.progress import Notify, Watch, ignore
from lensbench.prompts.prompt import choose
from lensbench.prompts.sets import load_prompts
from lensbench.records.engine import Outcome
from lensbench.records.recording import Request, Standing
from lensbench.records.store import RecordStore, folder_name
from lensbench.studies.lens import plan as plan_lens
from lensbench.studies.lens import run as run_lens
from lensbench.studies.specs.diff import DiffStudySpec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.stages.pairs import RUNS


def run(
    spec: DiffStudySpec, out: Path, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Read every variant, then compare each with its model's first one.

    A variant that cannot be read is named by `notify` and in the problems; the others go on.
    Raises InputProblems with all that is wrong with the models, and what `run` and `run_diff`
    raise.
    """
    texts = _texts(spec)
    refs = model_refs(texts)
    measured = run_lens(_lens_spec(spec, texts), out / RUNS, progress)
    problems = list(measured.problems)
    for name, error in measured.failed.items():
        notify(f"{name}: {error}")
        problems.append(Problem(name, f"it could not be read ({error})", "Mend it, run again."))
    how = DiffSpec(diverge_bits=spec.diverge_bits, device=spec.device)
    there = {folder.name: folder for folder in measured.folders}
    folders = []
    for first, other in _pairs(refs, len(spec.variants)):
        a, b = (there.get(folder_name(str(ref))) for ref in (first, other))
        if a is None or b is None:
            continue
        folder = out / folder_name(str(other))
        problems += run_diff(a, b, folder, how, progress)
        folders.append(folder)
    return Outcome(folders, problems=list(dict.fromkeys(problems)))


def plan(spec: DiffStudySpec, out: Path) -> Iterator[Planned]:
    """What `run` would make into `out`. Raises InputProblems as it does."""
    texts = _texts(spec)
    refs = model_refs(texts)
    yield from plan_lens(_lens_spec(spec, texts), out / RUNS)
    asked = choose(load_prompts(spec.prompts).prompts, spec.limit)
    n_prompts = sum(prompt.is_base for prompt in asked)
    settings = settings_of(DiffSpec(diverge_bits=spec.diverge_bits))
    for first, other in _pairs(refs, len(spec.variants)):
        name = f"{first} to {other}"
        request = Request(RecordStore(out / folder_name(str(other)), name, "diff"), settings)

        def jobs(known: Outlined[LensModel], _: Standing) -> Jobs[int]:
            return comparison(known.shape, known.model.n_layers, n_prompts)

        base = ModelRef.of(first.name)  # whose readout both are read with
        yield plan_record(f"{other}, compared", base, request, jobs, None, spec.device)


def _texts(spec: DiffStudySpec) -> tuple[str, ...]:
    """Every variant of every model."""
    return tuple(f"{model}{variant}" for model in spec.models for variant in spec.variants)


def _pairs(refs: list[ModelRef], per_model: int) -> list[tuple[ModelRef, ModelRef]]:
    """Each model's first variant with each other one."""
    return [
        (refs[start], other)
        for start in range(0, len(refs), per_model)
        for other in refs[start + 1 : start + per_model]
    ]


def _lens_spec(spec: DiffStudySpec, models: tuple[str, ...]) -> RunSpec:
    own: dict[str, Any] = {"models": models, "lenses": ("final",), "heatmap_prompts": 0}
    return RunSpec(**spec.shared(RunSpec) | own, keep_residuals=True)
