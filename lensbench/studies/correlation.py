"""A correlation study: every condition asked and traced, then compared layer by layer.

The traces are in `.runs/<model>/<condition>`; every one is resumable, and a finished one is not
made again. Compared are, for each model, the prompts alone with the same prompts and retrieved
context (`context-<model>`, against all controls), the other prompts with both (`prompts-<model>`,
unpaired), and, for each further model and condition, that model with the first one
(`precision-<condition>-<model>`; for the prompts alone the control is the model with itself in
other batches).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef, model_refs
from lensbench.compare.correlation.record import correlate
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.costs.planned import Planned, uncounted
from lensbench.errors import InputProblems, Problem
from lensbench.progress import Notify, Watch, ignore, within
from lensbench.prompts.sets import prompt_file
from lensbench.quantized.data.sources import pairs_of
from lensbench.quantized.generation.controls import CONTROLS
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import Decoding, InferenceSpec
from lensbench.records.engine import Outcome
from lensbench.records.store import folder_name
from lensbench.studies.planning.answers import plan_answers
from lensbench.studies.specs.correlation import CorrelationStudySpec
from lensbench.studies.stages.pairs import RUNS, as_documents, build_index

REBATCHED = "rebatched"


def run(
    spec: CorrelationStudySpec, out: Path, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Trace every condition with every model, and compare them into records beneath `out`.

    Raises InputProblems with all that is wrong with the models, and what `pairs_of`,
    `build_index`, `run_inference` and `correlate` raise.
    """
    refs = model_refs(spec.models, use="generation")
    asked = conditions(spec, out)
    pairs, problems = pairs_of(spec.documents)
    build_index(out / RUNS / "index", pairs, progress)
    for ref in refs:
        for name, settings in asked.items():
            stage = f"{ref}, {name}"
            done = run_inference(
                ref,
                _inference(spec, _trace(out, ref, name), settings),
                within(stage, progress),
                lambda text, stage=stage: notify(f"{stage}: {text}"),  # type: ignore[misc]
            )
            problems += done.problems
    folders = []
    for comparison in comparisons(spec, refs, out):
        compared = correlate(comparison, progress)
        folders.append(compared.folder)
        problems += compared.problems
    return Outcome(folders, problems=list(dict.fromkeys(problems)))


def plan(spec: CorrelationStudySpec, out: Path) -> Iterator[Planned]:
    """What `run` would make into `out`. Raises InputProblems as it does."""
    refs = model_refs(spec.models, use="generation")
    asked = conditions(spec, out)
    pairs, _ = pairs_of(spec.documents)
    documents = [document.text for document in as_documents(pairs)]
    for ref in refs:
        for name, settings in asked.items():
            inference = _inference(spec, _trace(out, ref, name), settings)
            yield plan_answers(f"{ref}, {name}", ref, inference, documents)
    for comparison in comparisons(spec, refs, out):
        why = "no model is run: similarities of the traces above, and intervals by resampling"
        yield uncounted(comparison.out.name, comparison.out, why)


def conditions(spec: CorrelationStudySpec, out: Path) -> dict[str, dict[str, Any]]:
    """What is asked under each condition's name. Raises InputProblems: no such prompts."""
    prompts, others = prompt_file(spec.prompts), prompt_file(spec.other_prompts)
    rag = {"prompts": prompts, "rag": str(out / RUNS / "index"), "top_k": spec.top_k}
    names = [others.stem, prompts.stem, f"{prompts.stem}+rag", *CONTROLS, REBATCHED]
    if len(set(names)) < len(names):
        what = f"conditions would share a name: {', '.join(names)}"
        remedy = "Give two files whose names differ, and from the controls' too."
        raise InputProblems([Problem("prompts, other_prompts", what, remedy)])
    return {
        others.stem: {"prompts": others},
        prompts.stem: {"prompts": prompts},
        f"{prompts.stem}+rag": rag,
        **{control: rag | {"control": control} for control in CONTROLS},
        REBATCHED: {"prompts": prompts, "rebatch": spec.rebatch_seed},
    }


def comparisons(
    spec: CorrelationStudySpec, refs: list[ModelRef], out: Path
) -> Iterator[CorrelationSpec]:
    """Every comparison that the traces allow, the reference first in each."""
    others, plain, rag, *controls = conditions(spec, out)
    first, *further = refs
    for ref in refs:
        yield CorrelationSpec(
            runs=tuple(_named(out, ref, name) for name in (plain, rag)),
            controls=tuple(_named(out, ref, name) for name in controls),
            out=out / f"context-{folder_name(str(ref))}",
            n_blocks=spec.suggest_blocks,
            **_how(spec),
        )
        yield CorrelationSpec(
            runs=tuple(_named(out, ref, name) for name in (others, plain, rag)),
            out=out / f"prompts-{folder_name(str(ref))}",
            unpaired=True,
            **_how(spec),
        )
    for ref in further:
        for name in (others, plain, rag):
            own = [REBATCHED] if name == plain else []
            yield CorrelationSpec(
                runs=tuple(_named(out, v, name, str(v)) for v in (ref, first)),
                controls=tuple(_named(out, ref, control) for control in own),
                out=out / f"precision-{folder_name(f'{name}-{ref}')}",
                **_how(spec),
            )


def _how(spec: CorrelationStudySpec) -> dict[str, Any]:
    return {"spans": spec.spans, "resamples": spec.resamples, "seed": spec.seed}


def _named(out: Path, ref: ModelRef, condition: str, name: str | None = None) -> str:
    """A trace as `correlate` takes it."""
    return f"{name or condition}={_trace(out, ref, condition)}"


def _trace(out: Path, ref: ModelRef, condition: str) -> Path:
    return out / RUNS / folder_name(str(ref)) / condition


def _inference(spec: CorrelationStudySpec, trace: Path, settings: dict[str, Any]) -> InferenceSpec:
    return InferenceSpec(
        out=trace.with_name(f"{trace.name}.csv"),
        trace=trace,
        decoding=Decoding(max_new_tokens=spec.max_new_tokens),
        style=spec.style,
        batch_size=spec.batch_size,
        limit=spec.limit,
        device=spec.device,
        **settings,
    )
