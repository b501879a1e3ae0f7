"""An adapter study: pairs parted, an index built, an adapter trained, all conditions evaluated.

Each stage leaves a folder that says when it is whole, so an interrupted study goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import Problem
from lensbench.progress import Notify, Watch, ignore
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.data.pairs import Pair, write_jsonl
from lensbench.quantized.data.sources import pairs_of
from lensbench.quantized.data.split import split
from lensbench.quantized.evaluation.evaluate import evaluate
from lensbench.quantized.evaluation.spec import EvalSpec
from lensbench.quantized.training.spec import TrainSpec
from lensbench.quantized.training.train import train
from lensbench.records.engine import Outcome
from lensbench.studies.specs.adapter import AdapterSpec
from lensbench.studies.stages import build_index

SHARES = {"train": 0.8, "eval": 0.05, "test": 0.15}


def run(spec: AdapterSpec, out: Path, progress: Watch = ignore, notify: Notify = ignore) -> Outcome:
    """Run every stage of a study into `out`.

    The index holds every pair but the asked ones, so retrieval can find other pairs about the same
    thing and never the question itself. Whole groups go to one split: the adapter sees no pair of
    a group that is asked about.

    Raises what `pairs_of`, `train`, `evaluate` and `build_index` raise.
    """
    pairs, problems = chosen_pairs(spec.data, spec.limit, spec.seed)
    ref = ModelRef.of(spec.model, bits=spec.bits, use="generation")
    parts = split(pairs, SHARES, spec.seed)
    asked = shuffled(parts["test"], spec.seed)[: spec.test_limit]
    files = {"train": parts["train"], "eval": parts["eval"], "test": asked}
    for name, part in files.items():
        write_jsonl(out / "data" / f"{name}.jsonl", part)
    notify(", ".join(f"{len(part):,} pairs for {name}" for name, part in files.items()))
    held_out = {pair.id for pair in asked}
    build_index(out / "index", [pair for pair in pairs if pair.id not in held_out], progress)
    trained = train(_train_spec(spec, ref, out), progress, notify)
    adapted = ModelRef.of(ref, adapter=out / "adapter", use="generation")
    skipped = evaluate(adapted, _eval_spec(spec, out), out / "evaluation", progress)
    problems += [*trained.problems, *skipped]
    return Outcome([out / "adapter", out / "evaluation"], problems=problems)


def shuffled(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Pairs in an order that each one's id and the seed decide: more pairs reorder nothing."""
    return sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}:{pair.id}".encode()).digest())


def chosen_pairs(
    sources: Sequence[str], limit: int | None, seed: int
) -> tuple[list[Pair], list[Problem]]:
    """At most `limit` pairs of each source, and what was wrong with others."""
    pairs: list[Pair] = []
    problems: list[Problem] = []
    for source in sources:
        found, wrong = pairs_of(source)
        chosen = {pair.id for pair in shuffled(found, seed)[:limit]}
        pairs += [pair for pair in found if pair.id in chosen]
        problems += wrong
    return pairs, problems


def _train_spec(spec: AdapterSpec, ref: ModelRef, out: Path) -> TrainSpec:
    own: dict[str, Any] = {
        "model": ref.at(spec.train_bits),
        "bits": None,  # those of the spec are of the model that answers
        "data": out / "data" / "train.jsonl",
        "eval_data": out / "data" / "eval.jsonl",
        "out": out / "adapter",
        "lora": Lora(**spec.shared(Lora)),
    }
    return TrainSpec(**spec.shared(TrainSpec) | own)


def _eval_spec(spec: AdapterSpec, out: Path) -> EvalSpec:
    return EvalSpec(
        data=out / "data" / "test.jsonl",
        rag=str(out / "index"),
        top_k=spec.top_k,
        style=spec.style,
        max_new_tokens=spec.max_new_tokens,
        batch_size=spec.test_batch_size,
        device=spec.device,
    )
