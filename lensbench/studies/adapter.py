"""An adapter study: pairs parted, an index built, an adapter trained, all conditions evaluated.

Each stage leaves a folder that says when it is whole, so an interrupted study goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.planned import Planned
from lensbench.progress import Notify, Watch, ignore
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.evaluation.evaluate import evaluate
from lensbench.quantized.evaluation.spec import EvalSpec
from lensbench.quantized.training.spec import TrainSpec
from lensbench.quantized.training.train import train
from lensbench.records.engine import Outcome
from lensbench.studies.planning.evaluations import plan_evaluation
from lensbench.studies.planning.trainings import adapter_size, plan_training
from lensbench.studies.specs.adapter import AdapterSpec
from lensbench.studies.stages.pairs import as_documents, build_index, chosen_pairs, part_pairs

SHARES = {"train": 0.8, "eval": 0.05, "test": 0.15}


def run(spec: AdapterSpec, out: Path, progress: Watch = ignore, notify: Notify = ignore) -> Outcome:
    """Run every stage of a study into `out`.

    The index holds every pair but the asked ones, so retrieval can find other pairs about the same
    thing and never the question itself. Whole groups go to one split: the adapter sees no pair of
    a group that is asked about.

    Raises what `pairs_of`, `train`, `evaluate` and `build_index` raise.
    """
    pairs, problems = chosen_pairs(spec)
    ref = ModelRef.of(spec.model, bits=spec.bits, use="generation")
    parts = part_pairs(spec, pairs, SHARES, out / "data", notify)
    held_out = {pair.id for pair in parts["test"]}
    build_index(out / "index", [pair for pair in pairs if pair.id not in held_out], progress)
    trained = train(_train_spec(spec, ref, out / "data", out), progress, notify)
    adapted = ModelRef.of(ref, adapter=out / "adapter", use="generation")
    skipped = evaluate(adapted, _eval_spec(spec, out / "data", out), out / "evaluation", progress)
    problems += [*trained.problems, *skipped]
    return Outcome([out / "adapter", out / "evaluation"], problems=problems)


def plan(spec: AdapterSpec, out: Path) -> Iterator[Planned]:
    """What `run` would make into `out`. Raises InputProblems as it does."""
    pairs, _ = chosen_pairs(spec)
    ref = ModelRef.of(spec.model, bits=spec.bits, use="generation")
    with TemporaryDirectory() as folder:  # the parts as files, by which the records know them
        data = Path(folder)
        parts = part_pairs(spec, pairs, SHARES, data, ignore)
        held_out = {pair.id for pair in parts["test"]}
        found = as_documents([pair for pair in pairs if pair.id not in held_out])
        training, evaluation = _train_spec(spec, ref, data, out), _eval_spec(spec, data, out)
        yield plan_training("adapter", training)
        yield plan_evaluation(
            "evaluation",
            ref,
            evaluation,
            out / "evaluation",
            adapter_size(training),
            [document.text for document in found],
        )


def _train_spec(spec: AdapterSpec, ref: ModelRef, data: Path, out: Path) -> TrainSpec:
    own: dict[str, Any] = {
        "model": ref.at(spec.train_bits),
        "bits": None,  # those of the spec are of the model that answers
        "data": data / "train.jsonl",
        "eval_data": data / "eval.jsonl",
        "out": out / "adapter",
        "lora": Lora(**spec.shared(Lora)),
    }
    return TrainSpec(**spec.shared(TrainSpec) | own)


def _eval_spec(spec: AdapterSpec, data: Path, out: Path) -> EvalSpec:
    return EvalSpec(
        data=data / "test.jsonl",
        rag=str(out / "index"),
        top_k=spec.top_k,
        style=spec.style,
        max_new_tokens=spec.max_new_tokens,
        batch_size=spec.test_batch_size,
        device=spec.device,
    )
