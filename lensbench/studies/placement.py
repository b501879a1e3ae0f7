"""A placement study: equal adapters in different blocks, trained and measured on held-out pairs.

Every placement is a job of one record, `placement`: how likely it finds each held-out response. Its
adapter and its evaluation stay in `.runs/<placement>-<repetition>`, each resumable by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.planned import Planned, uncounted
from lensbench.errors import Problem, RecordsError
from lensbench.progress import Notify, Progress, Watch, ignore, within
from lensbench.quantized.evaluation.evaluate import evaluate
from lensbench.quantized.evaluation.spec import EvalSpec
from lensbench.quantized.training.spec import TrainSpec
from lensbench.quantized.training.train import settings_of_run, train
from lensbench.records.engine import Job, Outcome, Work, make, require_here
from lensbench.records.open import open_record
from lensbench.records.parts import Part, Parts
from lensbench.records.recording import Finished, Recording, Request
from lensbench.records.schema.adapters import PLACEMENT
from lensbench.records.store import RecordStore
from lensbench.studies.specs.placement import PlacementSpec
from lensbench.studies.stages.pairs import RUNS, chosen_pairs, part_pairs
from lensbench.studies.stages.placements import Placement, placements

SHARES = {"train": 0.8, "test": 0.2}
BASE = "base"
# Settings of a placement's training that are those of all.
_SHARED = (
    "alpha",
    "targets",
    "dropout",
    "bits",
    "style",
    "epochs",
    "max_steps",
    "batch_size",
    "peak_learning_rate",
    "max_length",
    "data",
    "data_sha256",
    "n_train",
)


@dataclass(frozen=True)
class Trial:
    """One placement in one repetition."""

    placement: Placement
    repetition: int

    @property
    def name(self) -> str:
        """In words, repetitions counted from 1."""
        return f"{self.placement.name}, repetition {self.repetition + 1}"


@dataclass(frozen=True)
class Study:
    """What all trials have in common."""

    spec: PlacementSpec
    out: Path
    watch: Watch
    notify: Notify

    @property
    def base(self) -> ModelRef:
        """What every placement is trained on, and measured on."""
        bits = self.spec.train_bits or ModelRef.of(self.spec.model).bits or 32
        return ModelRef.of(self.spec.model, bits=bits, use="generation")

    @property
    def pairs(self) -> Path:
        """Where the files of pairs are: those to train on, and those to test with."""
        return self.out / RUNS / "data"

    def folder(self, trial: Trial) -> Path:
        """Where a trial's adapter and evaluation are."""
        return self.out / RUNS / f"{trial.placement.folder}-{trial.repetition}"


def run(
    spec: PlacementSpec, out: Path, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Train and measure every placement, repetition by repetition, and write the record.

    All placements of a repetition see the same pairs in the same order; whole groups of pairs are
    held out. Raises what `pairs_of`, `placements`, `train` and `evaluate` raise.
    """
    require_here(spec)
    study = Study(spec, out, progress, notify)
    trials = [Trial(one, n) for n in range(spec.repetitions) for one in placements(spec, n)]
    pairs, problems = chosen_pairs(spec)
    part_pairs(spec, pairs, SHARES, study.pairs, notify)
    store = RecordStore(out / "placement", study.base.name, "placement")
    request = Request(store, _settings(study, trials[0]), study.base.facts(), decided=("n_test",))

    def prepare(record: Recording) -> Work[Study, Trial | None]:
        progress(Progress("measuring the base"))
        problems.extend(_evaluate(study, None, study.out / RUNS / BASE, progress))
        rows = open_record(study.out / RUNS / BASE).table("evaluation")
        first = _train(study, trials[0])  # the model's facts are those of what is trained
        record.begin(open_record(first.folder).model, {"n_test": rows["prompt_id"].nunique()})

        def finish(parts: Parts) -> Finished:
            return Finished([*problems, *parts.problems])

        return Work(study, measure, [[None, *trials]], finish, unit="placements")

    return Outcome([store.folder], problems=make(request, prepare, progress))


def plan(spec: PlacementSpec, out: Path) -> Iterator[Planned]:
    """What `run` would make into `out`. Raises InputProblems as it does."""
    ref = Study(spec, out, ignore, ignore).base
    why = "the operations of its trainings are not counted"
    yield uncounted(f"{ref}, placements", out / "placement", why)


def _settings(study: Study, first: Trial) -> dict[str, Any]:
    """What decides the numbers, but for how many of the held-out pairs can be measured."""
    spec, own = study.spec, settings_of_run(_train_spec(study, first))
    return {key: own[key] for key in _SHARED if key in own} | {
        "suggested": spec.blocks,
        "repetitions": spec.repetitions,
        "first_seed": spec.seed,
        "n_trainable": first.placement.n_trainable,
    }


def measure(study: Study, job: Job[Trial | None]) -> Part:
    """Train and measure one placement; of the base what was measured before."""
    trial = job.item
    if trial is None:
        base: dict[str, Any] = {"placement": BASE, "repetition": None, "blocks": [], "rank": None}
        return Part({"placement": _table(study, study.out / RUNS / BASE, base)})
    placement, folder = trial.placement, study.folder(trial)
    study.notify(f"{trial.name}: blocks {placement.lora.blocks}, rank {placement.lora.rank}")
    problems = _train(study, trial).problems
    watch = within(trial.name, study.watch)
    problems += _evaluate(study, folder / "adapter", folder / "evaluation", watch)
    _require_budget(folder / "adapter", placement)
    place = {"placement": placement.name, "repetition": trial.repetition}
    place |= {"blocks": list(placement.blocks), "rank": placement.lora.rank}
    return Part({"placement": _table(study, folder / "evaluation", place)}, problems)


def _train(study: Study, trial: Trial) -> Outcome:
    """Its adapter; one that is there is left alone."""
    return train(_train_spec(study, trial), within(trial.name, study.watch))


def _train_spec(study: Study, trial: Trial) -> TrainSpec:
    own: dict[str, Any] = {
        "model": study.base,
        "data": study.pairs / "train.jsonl",
        "out": study.folder(trial) / "adapter",
        "lora": trial.placement.lora,
        "seed": study.spec.seed + trial.repetition,
        "eval_share": 0.0,
        "n_examples": 0,
    }
    return TrainSpec(**study.spec.shared(TrainSpec) | own)


def _evaluate(study: Study, adapter: Path | None, to: Path, watch: Watch) -> list[Problem]:
    """How likely the held-out responses are: what is said instead is one token long."""
    how = EvalSpec(
        data=study.pairs / "test.jsonl",
        style=study.spec.style,
        max_new_tokens=1,
        batch_size=study.spec.test_batch_size,
        only="base" if adapter is None else "adapter",
        device=study.spec.device,
    )
    model = ModelRef.of(study.base, adapter=adapter, use="generation")
    return evaluate(model, how, to, watch)


def _require_budget(adapter: Path, placement: Placement) -> None:
    """What was trained is as much as was planned. Raises RecordsError."""
    trained = open_record(adapter).manifest["adapter"]["trainable"]
    if trained != placement.n_trainable:
        raise RecordsError(
            f"{adapter}: {trained} parameters were trained, {placement.n_trainable} were planned. "
            "Delete its folder and run the same command again."
        )


def _table(study: Study, evaluation: Path, place: dict[str, Any]) -> pa.Table:
    """An evaluation's rows, as the record has them."""
    columns = ["prompt_id", "group", "reference_nll_bits", "n_reference_tokens"]
    rows = open_record(evaluation).arrow("evaluation", columns).to_pylist()
    own = {"model": study.base.name} | place
    return PLACEMENT.of_rows([own | row for row in rows])
