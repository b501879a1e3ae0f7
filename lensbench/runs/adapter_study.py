"""An adapter study: pairs parted, an index built, an adapter trained, all conditions evaluated.

Each stage leaves a folder that says when it is whole, so an interrupted study goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from lensbench.errors import Problem
from lensbench.quantized.evaluate import EvalSpec, evaluate
from lensbench.quantized.infer import ModelChoice
from lensbench.quantized.lora import Lora
from lensbench.quantized.pairs import Pair, write_jsonl
from lensbench.quantized.precision import Bits
from lensbench.quantized.rag.documents import Document
from lensbench.quantized.rag.embedding import load_embedder
from lensbench.quantized.rag.index import create_index
from lensbench.quantized.sources import pairs_of
from lensbench.quantized.split import split
from lensbench.quantized.style import Style
from lensbench.quantized.train import TrainSpec, train
from lensbench.runs.adapter_spec import AdapterSpec

Progress = Callable[[str, int, int], None]  # (stage, done, in all)
Notify = Callable[[str], None]

SHARES = {"train": 0.8, "eval": 0.05, "test": 0.15}


def run_study(
    spec: AdapterSpec,
    out: Path,
    progress: Progress = lambda *_: None,
    notify: Notify = lambda _: None,
) -> list[Problem]:
    """Run every stage of a study into `out`; returns what was left out on the way.

    The index holds every pair but the asked ones, so retrieval can find other pairs about the same
    thing and never the question itself. Whole groups go to one split: the adapter sees no pair of
    a group that is asked about.

    Raises what `pairs_of`, `train`, `evaluate` and `create_index` raise.
    """
    pairs, problems = _pairs(spec)
    parts = split(pairs, SHARES, spec.seed)
    asked = shuffled(parts["test"], spec.seed)[: spec.test_limit]
    files = {"train": parts["train"], "eval": parts["eval"], "test": asked}
    for name, part in files.items():
        write_jsonl(out / "data" / f"{name}.jsonl", part)
    notify(", ".join(f"{len(part):,} pairs for {name}" for name, part in files.items()))
    _index(out / "index", pairs, {pair.id for pair in asked}, progress)
    trained = train(
        _train_spec(spec, out),
        lambda what, done, total, _: progress(what, done, total),
        notify,
    )
    left_out = evaluate(_choice(spec, out), _eval_spec(spec, out), out / "evaluation", progress)
    return [*problems, *trained.problems, *left_out]


def shuffled(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Pairs in an order that each one's id and the seed decide: more pairs reorder nothing."""
    return sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}:{pair.id}".encode()).digest())


def _pairs(spec: AdapterSpec) -> tuple[list[Pair], list[Problem]]:
    pairs: list[Pair] = []
    problems: list[Problem] = []
    for source in spec.data:
        found, wrong = pairs_of(source)
        chosen = {pair.id for pair in shuffled(found, spec.seed)[: spec.limit]}
        pairs += [pair for pair in found if pair.id in chosen]
        problems += wrong
    return pairs, problems


def _index(folder: Path, pairs: Sequence[Pair], asked: set[str], progress: Progress) -> None:
    """Bring the index up to date with the pairs that are not asked."""
    documents = [
        Document(pair.id, f"{pair.question}\n{pair.response}", {"source": "pairs"})
        for pair in pairs
        if pair.id not in asked
    ]
    with create_index(folder, load_embedder()) as index:
        index.add(
            documents,
            delete_missing=True,
            progress=lambda done, total: progress("index", done, total),
        )


def _train_spec(spec: AdapterSpec, out: Path) -> TrainSpec:
    return TrainSpec(
        model=spec.model,
        data=out / "data" / "train.jsonl",
        eval_data=out / "data" / "eval.jsonl",
        out=out / "adapter",
        lora=Lora(spec.layers, spec.targets, spec.rank, spec.alpha, spec.dropout),
        bits=cast(Bits, spec.train_bits),
        device=spec.device,
        style=cast(Style, spec.style),
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        seed=spec.seed,
        cache_prefix=spec.cache_prefix,
    )


def _choice(spec: AdapterSpec, out: Path) -> ModelChoice:
    return ModelChoice(spec.model, cast(Bits, spec.bits), out / "adapter", spec.device)


def _eval_spec(spec: AdapterSpec, out: Path) -> EvalSpec:
    return EvalSpec(
        data=out / "data" / "test.jsonl",
        rag=str(out / "index"),
        top_k=spec.top_k,
        style=cast(Style, spec.style),
        max_new_tokens=spec.max_new_tokens,
        batch_size=spec.test_batch_size,
    )
