"""A correlation study from runs on disk to a record, and the files of chosen blocks beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from lensbench.compare.correlation.plan import Massive, plan_studies
from lensbench.compare.correlation.runs import Run, open_runs
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.compare.correlation.study import Study, compare_measure, known_measures
from lensbench.compare.correlation.suggest import Chosen, choice_files
from lensbench.compare.layer_choice import Choice
from lensbench.errors import InputProblems, Problem
from lensbench.files import sha256_of
from lensbench.progress import Progress, Watch, ignore
from lensbench.records.engine import Job, Outcome, Work, make
from lensbench.records.parts import Part, Parts
from lensbench.records.recording import Finished, Recording, Request
from lensbench.records.schema import TABLES
from lensbench.records.schema.correlation import MASSIVE_DIMENSIONS, VARIANTS
from lensbench.records.schema.generation import MIXED, SPANS
from lensbench.records.store import RecordStore


def correlate(spec: CorrelationSpec, progress: Watch = ignore) -> Outcome:
    """Compare runs layer by layer and write the record; one that is finished is left alone.

    Files of chosen blocks, if some are asked for, are in its folder (`suggested`).

    Raises:
        InputProblems: settings out of range; folders that hold no activations; runs that do not
            match, named with what does not.
        RecordsError: a table is damaged; the record's folder holds another study.
    """
    runs = open_runs([*spec.runs, *spec.controls])
    _require_blocks(spec, runs[0])
    spec = spec.model_copy(update={"spans": _spans(spec, runs)})
    store = RecordStore(spec.out, runs[0].name, "correlation")
    request = Request(store, _settings(spec, runs), runs[0].record.model)

    def prepare(record: Recording) -> Work[dict[str, Study], tuple[str, str]]:
        progress(Progress("reading the runs"))
        studies, massive = plan_studies(spec, runs)
        record.begin(runs[0].record.model)
        return _work(spec, request.settings, studies, massive)

    return Outcome([spec.out], problems=make(request, prepare, progress))


def _work(
    spec: CorrelationSpec,
    settings: Mapping[str, Any],
    studies: Sequence[Study],
    massive: Massive,
) -> Work[dict[str, Study], tuple[str, str]]:
    """A job for each measure of each span."""
    by_span = {study.aligned.span: study for study in studies}
    facts = {"reference": studies[0].reference, "controls": list(studies[0].controls)}

    def finish(parts: Parts) -> Finished:
        problems = [problem for study in studies for problem in study.aligned.problems]
        chosen = _chosen(parts, spec.main)
        ranking = parts.table("layer_ranking")
        return Finished(
            problems,
            {"massive_dimensions": _massive_table(massive)},
            files=choice_files(chosen, ranking, spec.main, facts | {"settings": dict(settings)}),
            facts={"spans": {span: _span_facts(study) for span, study in by_span.items()}},
        )

    items = [(span, measure.name) for span, study in by_span.items() for measure in study.measures]
    return Work(by_span, compare, [items], finish, unit="measures")


def compare(studies: dict[str, Study], job: Job[tuple[str, str]]) -> Part:
    """One measure of one span: curves, maps, ranked layers and chosen blocks of every variant."""
    span, measure = job.item
    (known,) = known_measures([measure])
    found = compare_measure(studies[span], known)
    tables = {name: TABLES[name].of_rows(rows) for name, rows in found.rows.items()}
    choices = [
        {"span": span, "condition": condition, "by": [measure, variant], "choice": asdict(choice)}
        for (condition, _, variant), choice in found.choices.items()
    ]
    return Part(tables, notes={"choices": choices})


def _chosen(parts: Parts, main: tuple[str, str]) -> Chosen:
    """The blocks that the main measure chose."""
    return {
        (of["span"], of["condition"]): _choice(of["choice"])
        for note in parts.notes
        for of in note["choices"]
        if tuple(of["by"]) == main
    }


def _choice(noted: dict[str, Any]) -> Choice:
    """As it was before it was noted: JSON knows no tuples."""
    whole: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in noted.items()}
    return Choice(**whole)


def _massive_table(massive: Massive) -> pa.Table:
    rows = [
        {"span": span, "condition": name} | asdict(one)
        for span, by_condition in massive.items()
        for name, dimensions in by_condition.items()
        for one in dimensions
    ]
    return MASSIVE_DIMENSIONS.of_rows(rows)


def _spans(spec: CorrelationSpec, runs: Sequence[Run]) -> tuple[str, ...]:
    """What is compared: each span by itself, or the tokens that every run names."""
    if runs[0].span is None:
        return spec.spans or SPANS
    if spec.spans:
        what, remedy = "the runs name their own tokens", "Leave it out."
        raise InputProblems([Problem("spans", what, remedy)])
    return (MIXED,)


def _require_blocks(spec: CorrelationSpec, reference: Run) -> None:
    """The reference has as many blocks as are to be suggested."""
    there = reference.record.n_layers
    if spec.n_blocks is not None and not 1 <= spec.n_blocks <= there:
        what = f"{spec.n_blocks} blocks are to be suggested, {reference.name} has {there}"
        raise InputProblems([Problem("n_blocks", what, f"Give 1 to {there}.")])


def _settings(spec: CorrelationSpec, runs: Sequence[Run]) -> dict[str, Any]:
    """What decides the numbers, every input with what identifies it."""
    n_conditions = len(spec.runs)
    roles = ["reference"] + ["condition"] * (n_conditions - 1)
    roles += ["control"] * len(spec.controls)
    return {
        "inputs": {
            run.name: run.facts() | {"role": role} for run, role in zip(runs, roles, strict=True)
        },
        "spans": list(spec.spans),
        "measures": list(spec.measured),
        "variants": list(VARIANTS),
        "chosen_by": list(spec.main),
        "n_blocks": spec.n_blocks,
        "resamples": spec.resamples,
        "seed": spec.seed,
        "relative_depth": spec.relative_depth,
        "unpaired": spec.unpaired,
        "groups_sha256": sha256_of(spec.groups) if spec.groups else None,
    }


def _span_facts(study: Study) -> dict[str, Any]:
    """How many prompts of each condition were compared, of what length, at which layers."""
    aligned = study.aligned
    return {
        "prompts": {name: len(ids) for name, ids in aligned.prompt_ids.items()},
        "groups": {name: how.n_groups for name, how in study.how.items()},
        "mean_tokens": {
            name: round(float(tokens.mean()), 2) for name, tokens in aligned.n_tokens.items()
        },
        "layers": {name: list(layers) for name, layers in aligned.layers.items()},
    }
