"""A study of classification: a record of each set of labelled texts, every method in it.

Each run of a method loads the model that it needs and lets go of it: the turns are of texts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef
from lensbench.classification.accuracy import accuracy_rows
from lensbench.classification.examples import LabelledSet, load_every
from lensbench.classification.measured import Measuring, Run, measure
from lensbench.classification.prepare import (
    example_facts,
    model_facts,
    models_of,
    names_of,
    prepared,
)
from lensbench.classification.spec import ClassifySpec
from lensbench.costs.encoders import encoder_outlined
from lensbench.costs.outlined import Outlined, outlined
from lensbench.costs.planned import Jobs, Planned, plan_record, uncounted
from lensbench.errors import Problem
from lensbench.progress import Notify, Watch, ignore, within
from lensbench.quantized.peaks import Import
from lensbench.quantized.training.checkpoints import CHECKPOINTS
from lensbench.records.engine import Outcome, Work, make, require_here
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request, Standing
from lensbench.records.schema.text.classification import ACCURACY, PREDICTIONS
from lensbench.records.store import RecordStore, folder_name
from lensbench.studies.planning.classifications import classification, mostly_read

Models = tuple[ModelRef | None, list[ModelRef]]


def run(
    spec: ClassifySpec, out: Path | str, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Measure every method on each set into `out/<set>/`; again to go on after an interruption.

    A set that cannot be measured is in the outcome, and the others go on.

    Raises InputProblems for files that cannot be used and models of the wrong kind, ModelError for
    models that are not here, MissingExtraError, all before anything is loaded.
    """
    require_here(spec)
    found = load_every(spec.data)
    models, outcome = models_of(spec), Outcome()
    for name, one in zip(names_of(found), found, strict=True):
        store = RecordStore(Path(out) / folder_name(name), name, "classification")
        with outcome.attempt(store):
            outcome.problems += _one(spec, one, models, store, progress, notify)
    return outcome


def plan(spec: ClassifySpec, out: Path | str) -> Iterator[Planned]:
    """What `run` would make into `out`. Raises what it raises before anything is loaded."""
    found, models = load_every(spec.data), models_of(spec)
    for name, one in zip(names_of(found), found, strict=True):
        store = RecordStore(Path(out) / folder_name(name), name, "classification")
        context = prepared(spec, one, models, store.folder)
        ref = mostly_read(context)
        if ref is None:
            yield uncounted(name, store.folder, "it asks no model: labels are counted")
            continue
        how: Any = encoder_outlined if ref == context.encoder else outlined
        request = Request(store, _settings(spec, one))
        jobs = partial(_jobs, context)
        more: list[Import] = ["bridge"] if context.causal else []
        yield plan_record(name, ref, request, jobs, None, spec.device, "train", how, more)


def _jobs(context: Measuring, _: Outlined[Any], __: Standing) -> Jobs[Run]:
    """Each run is of one of several models, which it outlines itself."""
    return classification(context)


def _settings(spec: ClassifySpec, found: LabelledSet) -> dict[str, Any]:
    return spec.settings() | {"data": found.name, "data_sha256": found.sha256}


def _one(
    spec: ClassifySpec,
    found: LabelledSet,
    models: Models,
    store: RecordStore,
    watch: Watch,
    notify: Notify,
) -> list[Problem]:
    """One set's record, from where it stopped. Returns what was skipped."""
    context = prepared(spec, found, models, store.folder, within(store.model, watch))
    told = example_facts(context)
    facts = model_facts(context, store.model, new=store.manifest() is None)
    settings = _settings(spec, found)

    def prepare(record: Recording) -> Work[Measuring, Run]:
        notify(f"{store.model}: {told['n_train']} texts to learn from, {told['n_test']} to test")
        record.begin(facts)

        def finish(parts: Parts) -> Finished:
            rows = accuracy_rows(parts.table(PREDICTIONS.name).to_pandas())
            tables = {ACCURACY.name: ACCURACY.of_rows(rows)}
            return Finished([*found.problems, *parts.problems], tables, facts={"examples": told})

        return Work(context, measure, [context.runs], finish, unit="runs")

    problems = make(Request(store, settings, facts), prepare, watch)
    shutil.rmtree(store.folder / CHECKPOINTS, ignore_errors=True)
    return problems
