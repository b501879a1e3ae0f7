"""A placement study: equal adapters in different blocks, trained and measured on held-out pairs.

Every placement is a job of one record, `placement`: how likely it finds each held-out response. Its
adapter and its evaluation stay in `.runs/<placement>-<repetition>`, each resumable by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.cost import Cost
from lensbench.costs.outlined import Outlined, plainly_outlined
from lensbench.costs.planned import Jobs, Planned, plan_record
from lensbench.errors import Problem, RecordsError
from lensbench.progress import Notify, Progress, Watch, ignore, within
from lensbench.quantized.adapters.lora import match
from lensbench.quantized.evaluation.evaluate import asked_of, evaluate
from lensbench.quantized.evaluation.spec import Condition, EvalSpec
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.quantized.training.spec import TrainSpec
from lensbench.quantized.training.train import checked, settings_of_run, train
from lensbench.records.engine import Job, Outcome, Work, make, require_here
from lensbench.records.open import open_record
from lensbench.records.parts import Part, Parts
from lensbench.records.recording import Finished, Recording, Request, Standing
from lensbench.records.schema.adapters import PLACEMENT
from lensbench.records.store import RecordStore
from lensbench.studies.planning.evaluations import evaluation
from lensbench.studies.planning.trainings import training
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
    pairs: Path  # where their files are: those to train on, and those to test with
    watch: Watch = ignore
    notify: Notify = ignore

    @property
    def base(self) -> ModelRef:
        """What every placement is trained on, and measured on."""
        bits = self.spec.train_bits or ModelRef.of(self.spec.model).bits or 32
        return ModelRef.of(self.spec.model, bits=bits, use="generation")

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
    study = Study(spec, out, out / RUNS / "data", progress, notify)
    trials = _trials(spec)
    pairs, problems = chosen_pairs(spec)
    part_pairs(spec, pairs, SHARES, study.pairs, notify)
    request = replace(_request(study, trials[0]), model=study.base.facts())

    def prepare(record: Recording) -> Work[Study, Trial | None]:
        progress(Progress("measuring the base"))
        problems.extend(_evaluate(study, None, study.out / RUNS / BASE, progress))
        rows = open_record(study.out / RUNS / BASE).table("evaluation")
        first = _train(study, trials[0])  # the model's facts are those of what is trained
        record.begin(open_record(first.folder).model, {"n_test": rows["prompt_id"].nunique()})

        def finish(parts: Parts) -> Finished:
            return Finished([*problems, *parts.problems])

        return Work(study, measure, [[None, *trials]], finish, unit="placements")

    return Outcome([request.store.folder], problems=make(request, prepare, progress))


def plan(spec: PlacementSpec, out: Path) -> Iterator[Planned]:
    """What `run` would make into `out`. Raises InputProblems as it does."""
    trials, (pairs, problems) = _trials(spec), chosen_pairs(spec)
    with TemporaryDirectory() as folder:  # the parts as files, by which the records know them
        study = Study(spec, out, Path(folder))
        part_pairs(spec, pairs, SHARES, study.pairs, ignore)
        base = study.base
        jobs = partial(_jobs, study, trials, problems)
        name, request = f"{base}, placements", _request(study, trials[0])
        yield plan_record(name, base, request, jobs, None, spec.device, "train", plainly_outlined)


def _jobs(
    study: Study,
    trials: Sequence[Trial],
    problems: Sequence[Problem],
    known: Outlined[AdaptedModel],
    _: Standing,
) -> Jobs[Trial | None]:
    """A training and an evaluation of each placement, of the base an evaluation."""
    how = _eval_spec(study, "base")
    asked = asked_of(how)
    data = checked(_train_spec(study, trials[0]), study.base.folder)[0]  # that of all of them

    def evaluated(adapter: int) -> Cost:
        condition = "adapter" if adapter else "base"
        settings: dict[str, Any] = {"conditions": [condition], "style": how.style}
        settings |= {"max_new_tokens": how.max_new_tokens}
        widths = [{"n_examples": len(asked.pairs)}]
        jobs = evaluation(how, asked, settings, (), adapter, known, widths)
        return jobs.of(chain(*jobs.items))[1]

    @cache
    def cost(trial: Trial | None) -> Cost:
        if trial is None:
            return _kept(evaluated(0))
        matched = match(known.model.base, trial.placement.lora)
        jobs = training(_train_spec(study, trial), data, matched, known)
        return _kept(jobs.of(chain(*jobs.items))[1] + evaluated(trial.placement.n_trainable))

    # Each trial loads the model to train it and again to evaluate it.
    n_models, n_prompts = 1 + 2 * len(trials), len(asked.pairs)
    return Jobs([[None, *trials]], cost, n_prompts=n_prompts, problems=problems, n_models=n_models)


def _kept(cost: Cost) -> Cost:
    """The record keeps the rows of an evaluation; adapters stay beside it."""
    rows, scratch = {PLACEMENT.name: cost.rows["evaluation"]}, cost.file_bytes + cost.scratch_bytes
    return replace(cost, rows=rows, file_bytes=0, scratch_bytes=scratch)


def _trials(spec: PlacementSpec) -> list[Trial]:
    """Repetition by repetition."""
    return [Trial(one, n) for n in range(spec.repetitions) for one in placements(spec, n)]


def _request(study: Study, first: Trial) -> Request:
    """The record that is wanted, but for what is known of the model."""
    store = RecordStore(study.out / "placement", study.base.name, "placement")
    return Request(store, _settings(study, first), decided=("n_test",))


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
    how = _eval_spec(study, "base" if adapter is None else "adapter")
    model = ModelRef.of(study.base, adapter=adapter, use="generation")
    return evaluate(model, how, to, watch)


def _eval_spec(study: Study, condition: Condition) -> EvalSpec:
    return EvalSpec(
        data=study.pairs / "test.jsonl",
        style=study.spec.style,
        max_new_tokens=1,
        batch_size=study.spec.test_batch_size,
        only=condition,
        device=study.spec.device,
    )


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
