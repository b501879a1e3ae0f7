"""A placement study: equal adapters in different blocks, trained and measured on held-out pairs.

Every placement leaves its adapter and its evaluation in `.runs/<placement>-<repetition>`, so an
interrupted study goes on placement by placement. What the report needs of them is one record,
`placement`: how likely each placement finds each held-out response.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import Problem, RecordsError
from lensbench.progress import Notify, Watch, ignore, within
from lensbench.quantized.data.pairs import write_jsonl
from lensbench.quantized.data.split import split
from lensbench.quantized.evaluation.evaluate import evaluate
from lensbench.quantized.evaluation.spec import EvalSpec
from lensbench.quantized.training.spec import TrainSpec
from lensbench.quantized.training.train import train
from lensbench.records.engine import Outcome
from lensbench.records.manifest import new_manifest, peak_memory_bytes
from lensbench.records.open import open_record
from lensbench.records.schema.adapters import PLACEMENT
from lensbench.records.store import RecordStore
from lensbench.studies.adapter import chosen_pairs, shuffled
from lensbench.studies.placements import Placement, placements
from lensbench.studies.specs.placement import PlacementSpec
from lensbench.studies.stages import RUNS

SHARES = {"train": 0.8, "test": 0.2}
BASE = "base"


def run(
    spec: PlacementSpec,
    out: Path,
    progress: Watch = ignore,
    notify: Notify = ignore,
) -> Outcome:
    """Train and measure every placement, repetition by repetition, and write the record.

    All placements of a repetition see the same pairs in the same order; whole groups of pairs are
    held out. Raises what `pairs_of`, `placements`, `train` and `evaluate` raise.
    """
    started = time.monotonic()
    planned = [(n, placement) for n in range(spec.repetitions) for placement in placements(spec, n)]
    pairs, problems = chosen_pairs(spec.data, spec.limit, spec.seed)
    parts = split(pairs, SHARES, spec.seed)
    asked = shuffled(parts["test"], spec.seed)[: spec.test_limit]
    for name, part in {"train": parts["train"], "test": asked}.items():
        write_jsonl(out / RUNS / "data" / f"{name}.jsonl", part)
    notify(f"{len(parts['train']):,} pairs to train on, {len(asked):,} held out")
    problems += _evaluate(spec, out, None, out / RUNS / BASE, progress)
    rows = _rows(out / RUNS / BASE, placement=BASE, repetition=None, blocks=[], rank=None)
    for number, placement in planned:
        stage = f"{placement.name}, repetition {number + 1}"
        notify(f"{stage}: blocks {placement.lora.blocks}, rank {placement.lora.rank}")
        folder = out / RUNS / f"{placement.folder}-{number}"
        staged = within(stage, progress)
        trained = train(_train_spec(spec, out, folder, placement, number), staged)
        problems += trained.problems
        problems += _evaluate(spec, out, folder / "adapter", folder / "evaluation", staged)
        _require_budget(folder / "adapter", placement)
        place: dict[str, Any] = {"placement": placement.name, "blocks": list(placement.blocks)}
        place["rank"] = placement.lora.rank
        rows += _rows(folder / "evaluation", repetition=number, **place)
    record = _write(spec, out, planned, rows, problems, started)
    return Outcome([record], problems=list(dict.fromkeys(problems)))


def _train_spec(
    spec: PlacementSpec, out: Path, folder: Path, placement: Placement, repetition: int
) -> TrainSpec:
    return TrainSpec(
        model=_base(spec),
        data=out / RUNS / "data" / "train.jsonl",
        out=folder / "adapter",
        lora=placement.lora,
        device=spec.device,
        style=spec.style,
        max_length=spec.max_length,
        epochs=spec.epochs,
        max_steps=spec.max_steps,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        seed=spec.seed + repetition,
        eval_share=0.0,
        n_examples=0,
    )


def _evaluate(
    spec: PlacementSpec, out: Path, adapter: Path | None, to: Path, progress: Watch
) -> list[Problem]:
    """How likely the held-out responses are: what is said instead is one token long."""
    how = EvalSpec(
        data=out / RUNS / "data" / "test.jsonl",
        style=spec.style,
        max_new_tokens=1,
        batch_size=spec.test_batch_size,
        only="base" if adapter is None else "adapter",
        device=spec.device,
    )
    model = ModelRef.of(_base(spec), adapter=adapter, use="generation")
    return evaluate(model, how, to, progress)


def _base(spec: PlacementSpec) -> ModelRef:
    """What every placement is trained on, and measured on."""
    return ModelRef.of(spec.model, bits=spec.train_bits, use="generation")


def _require_budget(adapter: Path, placement: Placement) -> None:
    """What was trained is as much as was planned. Raises RecordsError."""
    trained = open_record(adapter).manifest["adapter"]["trainable"]
    if trained != placement.n_trainable:
        raise RecordsError(
            f"{adapter}: {trained} parameters were trained, {placement.n_trainable} were planned. "
            "Delete its folder and run the same command again."
        )


def _rows(evaluation: Path, **place: Any) -> list[dict[str, Any]]:
    """An evaluation's rows, as the record has them: of this placement and repetition."""
    columns = ["prompt_id", "group", "reference_nll_bits", "n_reference_tokens"]
    table = open_record(evaluation).arrow("evaluation", columns)
    return [place | row for row in table.to_pylist()]


def _write(
    spec: PlacementSpec,
    out: Path,
    planned: list[tuple[int, Placement]],
    rows: list[dict[str, Any]],
    problems: list[Problem],
    started: float,
) -> Path:
    """The record of the whole study."""
    first = open_record(out / RUNS / f"{planned[0][1].folder}-0" / "adapter")
    store = RecordStore(out / "placement", first.name, "placement")
    settings = {key: first.settings[key] for key in _KEPT if key in first.settings}
    settings |= {
        "suggested": spec.blocks,
        "repetitions": spec.repetitions,
        "first_seed": spec.seed,
        "n_trainable": planned[0][1].n_trainable,
        "n_test": len({row["prompt_id"] for row in rows}),
    }
    manifest = new_manifest(first.model, settings, "placement")
    with store.locked():
        store.start(manifest)
        own = [{"model": store.model} | row for row in rows]
        store.write_table("placement", pa.Table.from_pylist(own, schema=PLACEMENT.schema))
        store.write_table("problems", store.problems_table(list(dict.fromkeys(problems))))
        store.finish(
            manifest
            | {
                "problems": len(set(problems)),
                "wall_s": round(time.monotonic() - started, 1),
                "peak_memory_bytes": peak_memory_bytes(),
            }
        )
    return store.folder


_KEPT = (
    "alpha",
    "targets",
    "dropout",
    "bits",
    "style",
    "epochs",
    "max_steps",
    "batch_size",
    "learning_rate",
    "max_length",
    "data",
    "data_sha256",
    "n_train",
)  # of a placement's settings: those that all placements share
