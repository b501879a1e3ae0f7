"""A lineage as a record: every model that one training or several kept, from random weights on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lensbench.errors import InputProblems, Problem
from lensbench.pico.loss_phases import phase_rows
from lensbench.pico.measure import Kept, Measuring, measured
from lensbench.pico.runs import Run, find_runs, held_out
from lensbench.pico.spec import AnalyseSpec
from lensbench.progress import Watch, ignore
from lensbench.records.engine import Outcome, Work, make
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request
from lensbench.records.schema.pico import PHASES
from lensbench.records.store import RecordStore


def analyse_pico(spec: AnalyseSpec, watch: Watch = ignore) -> Outcome:
    """Measure every model of some runs into `spec.out`; again to go on after an interruption.

    Raises:
        InputProblems: folders that are no runs, runs of different shapes, too little held-out text.
        GateError: the lens does not reproduce one of the models at its last layer.
        RecordsError: weights were altered, another record is there, or the disk is full.
    """
    runs = find_runs(spec.runs)
    name = runs[0].name.rpartition("-seed-")[0]
    store = RecordStore(spec.out, name, "lineage")
    model = {"name": name, "runs": {run.name: run.facts() for run in runs}}
    items = [Kept(i, step, run.seed) for i, run in enumerate(runs) for step in run.steps]
    items += [Kept(None, 0, seed) for seed in range(spec.untrained)]

    def prepare(record: Recording) -> Work[Measuring, Kept]:
        record.begin(_model_facts(runs[0]) | model)
        context = Measuring(runs, held_out(runs[0]), spec)

        def finish(parts: Parts) -> Finished:
            rows, problems = _phases(runs)
            return Finished(
                [*parts.problems, *problems],
                {"phases": PHASES.of_rows(rows)},
                gate=_gate(note.get("gate", []) for note in parts.notes),
            )

        return Work(context, measured, [items], finish, unit="models")

    problems = make(Request(store, spec.settings(), model), prepare, watch)
    return Outcome([store.folder], problems=problems)


def _phases(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The phases of each run; runs that are too short for any are problems."""
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for run in runs:
        try:
            rows += phase_rows(run)
        except InputProblems as error:
            problems += error.problems
    return rows, problems


def _model_facts(run: Run) -> dict[str, Any]:
    keys = ("source", "model_type", "n_layers", "d_model", "d_vocab", "n_params", "dtype")
    return {key: run.record.model[key] for key in keys}


def _gate(checks: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of each identity the model in which it was farthest off."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for identity in (one for own in checks for one in own):
        by_name.setdefault(identity["identity"], []).append(identity)
    return [
        max(own, key=lambda one: -1.0 if one["error"] is None else one["error"])
        for own in by_name.values()
    ]
