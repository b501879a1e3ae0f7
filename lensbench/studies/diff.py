"""A diff study: the lens over every variant of every model, and what moved from the first one.

The lens records are in `.runs`, resumable and not made again; beneath the study's folder is one
comparison for each further variant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef, model_refs
from lensbench.compare.diff.record import run_diff
from lensbench.compare.diff.spec import DiffSpec
from lensbench.errors import Problem
from lensbench.progress import Notify, Watch, ignore
from lensbench.records.engine import Outcome
from lensbench.records.store import folder_name
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
    texts = tuple(f"{model}{variant}" for model in spec.models for variant in spec.variants)
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
