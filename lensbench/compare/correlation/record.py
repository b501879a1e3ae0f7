"""A correlation study from runs on disk to a record, and the files of chosen blocks beside it."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from lensbench.compare.correlation.conditions import Aligned, align
from lensbench.compare.correlation.curves import Resampling
from lensbench.compare.correlation.runs import Run, open_runs
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.compare.correlation.study import Findings, Study, known_measures, run_study
from lensbench.compare.forms import (
    MassiveDimension,
    massive_dimensions,
    massive_masks,
)
from lensbench.compare.layer_choice import Choice, choice_file
from lensbench.errors import InputProblems, Problem
from lensbench.files import sha256_of, write_text
from lensbench.progress import Watch, ignore
from lensbench.records.manifest import new_manifest, peak_memory_bytes
from lensbench.records.read import read_table
from lensbench.records.schema import KINDS, TABLES
from lensbench.records.schema.correlation import VARIANTS
from lensbench.records.schema.generation import MIXED, SPANS
from lensbench.records.store import RecordStore, folder_name
from lensbench.stats.resampling import codes_of

WORDS = {"cosine": "mean cosine distance", "pearson": "1 - Pearson of the mean vectors"}
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Outcome:
    """What became of a study."""

    folder: Path  # the record
    tables: dict[str, pa.Table]
    suggested: dict[tuple[str, str], Path]  # by span and condition: the file for training
    problems: list[Problem]


def correlate(spec: CorrelationSpec, progress: Watch = ignore) -> Outcome:
    """Compare runs layer by layer and write the record; one that is finished is left alone.

    Raises:
        InputProblems: settings out of range; folders that hold no activations; runs that do not
            match, named with what does not.
        RecordsError: a table is damaged; the record's folder holds another study.
    """
    runs = open_runs([*spec.runs, *spec.controls])
    _require_blocks(spec, runs[0])
    spec = spec.model_copy(update={"spans": _spans(spec, runs)})
    settings = _settings(spec, runs)
    store = RecordStore(spec.out, runs[0].name, "correlation")
    suggested = _suggested_files(spec, runs)
    there = all(path.exists() for path in suggested.values())
    if not (there and store.is_complete(settings, runs[0].record.model)):
        _study(spec, runs, settings, store, progress)
    names = KINDS["correlation"].names
    return Outcome(
        spec.out,
        {name: read_table(spec.out, name) for name in names},
        {which: path for which, path in suggested.items() if path.exists()},
        store.problems(),
    )


def _study(
    spec: CorrelationSpec,
    runs: Sequence[Run],
    settings: dict[str, Any],
    store: RecordStore,
    progress: Watch,
) -> None:
    """Everything from the runs' vectors to a complete record."""
    started = time.monotonic()
    paired = not spec.unpaired
    aligned = [align(runs, span, spec.relative_depth, paired) for span in spec.spans]
    massive = {one.span: _massive(one) for one in aligned}
    studies = _studies(spec, aligned, massive)
    manifest = new_manifest(runs[0].record.model, settings, "correlation")
    with store.locked():
        store.start(manifest)
        findings = {study.aligned.span: run_study(study, progress) for study in studies}
        problems = [problem for one in aligned for problem in one.problems]
        ranking = _write_tables(store, findings, massive, problems)
        _suggest(spec, runs, settings, findings, ranking)
        manifest |= {
            "problems": len(problems),
            "wall_s": round(time.monotonic() - started, 1),
            "peak_memory_bytes": peak_memory_bytes(),
            "spans": {study.aligned.span: _span_facts(study) for study in studies},
        }
        store.finish(manifest)


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


def _massive(aligned: Aligned) -> dict[str, list[MassiveDimension]]:
    return {name: massive_dimensions(own) for name, own in aligned.values.items()}


def _studies(
    spec: CorrelationSpec,
    aligned: Sequence[Aligned],
    massive: dict[str, dict[str, list[MassiveDimension]]],
) -> list[Study]:
    """One study for each span, without the massive dimensions of all spans."""
    groups = _read_groups(spec.groups) if spec.groups else None
    masks = massive_masks(
        (one.values[name].shape[-1], dimensions)
        for one in aligned
        for name, dimensions in massive[one.span].items()
    )
    n_conditions = len(spec.runs)
    return [
        Study(
            aligned=one,
            conditions=one.names[1:n_conditions],
            controls=one.names[n_conditions:],
            measures=known_measures(spec.measured),
            how=_resampling(spec, one, groups),
            massive=masks,
            n_blocks=spec.n_blocks,
        )
        for one in aligned
    ]


def _read_groups(path: Path) -> dict[str, str]:
    """The group of each prompt id. Raises InputProblems when the file has no such columns."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        missing = [name for name in ("id", "group") if name not in (reader.fieldnames or ())]
        if missing:
            what, remedy = f"no column {', '.join(missing)}", "Give a .csv with id and group."
            raise InputProblems([Problem(str(path), what, remedy)])
        return {row["id"]: row["group"] or row["id"] for row in reader}


def _resampling(
    spec: CorrelationSpec, aligned: Aligned, groups: dict[str, str] | None
) -> dict[str, Resampling]:
    """How each condition's prompts are drawn again: all alike where paired, else each by itself."""
    if aligned.paired:
        codes = _codes(aligned.prompt_ids[aligned.names[0]], groups)
        return dict.fromkeys(aligned.names, Resampling(codes, spec.resamples, spec.seed))
    return {
        name: Resampling(_codes(aligned.prompt_ids[name], groups), spec.resamples, (spec.seed, i))
        for i, name in enumerate(aligned.names)
    }


def _codes(ids: Sequence[str], groups: dict[str, str] | None) -> Int[np.ndarray, "prompt"]:
    if groups is None:
        return codes_of(None, len(ids))
    lacking = [item for item in ids if item not in groups]
    if lacking:
        what = f"no group for {len(lacking)} prompts, {lacking[0]!r} first"
        raise InputProblems([Problem("groups", what, "Give every prompt a row in the file.")])
    return codes_of([groups[item] for item in ids], len(ids))


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


def _write_tables(
    store: RecordStore,
    findings: dict[str, Findings],
    massive: dict[str, dict[str, list[MassiveDimension]]],
    problems: list[Problem],
) -> list[dict[str, Any]]:
    """Write every table of the record; returns the rows of the ranking."""
    names = [name for name in KINDS["correlation"].names if name in Findings().rows]
    rows = {
        name: [row for found in findings.values() for row in found.rows[name]] for name in names
    }
    rows["massive_dimensions"] = [
        {"span": span, "condition": name} | asdict(one)
        for span, by_condition in massive.items()
        for name, dimensions in by_condition.items()
        for one in dimensions
    ]
    tables = {
        name: pa.Table.from_pylist(own, schema=TABLES[name].schema) for name, own in rows.items()
    }
    tables["problems"] = store.problems_table(problems)
    for name, table in tables.items():
        store.write_table(name, table)
    return rows["layer_ranking"]


def _suggested_files(spec: CorrelationSpec, runs: Sequence[Run]) -> dict[tuple[str, str], Path]:
    """Where the chosen blocks of each span and condition are written, if they are asked for."""
    if spec.n_blocks is None:
        return {}
    return {
        (span, run.name): spec.out / f"layers-{folder_name(run.name)}-{span}.json"
        for span in spec.spans
        for run in runs[1 : len(spec.runs)]
    }


def _suggest(
    spec: CorrelationSpec,
    runs: Sequence[Run],
    settings: dict[str, Any],
    findings: dict[str, Findings],
    ranking: list[dict[str, Any]],
) -> None:
    """Write one file of chosen blocks for each span and condition."""
    paths = _suggested_files(spec, runs)
    for span, found in findings.items():
        for (condition, measure, variant), choice in found.choices.items():
            if (measure, variant) != spec.main:
                continue
            own = [
                row
                for row in ranking
                if (row["span"], row["condition"]) == (span, condition)
                and (row["measure"], row["variant"]) == spec.main
            ]
            facts: dict[str, Any] = {
                "span": span,
                "condition": condition,
                "reference": runs[0].name,
            }
            facts |= {"controls": [run.name for run in runs[len(spec.runs) :]]}
            facts |= {"measure": measure, "variant": variant, "settings": settings}
            data = choice_file(choice, why(choice, own, WORDS[measure]), facts)
            text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
            write_text(paths[span, condition], text)


def _proven(row: dict[str, Any]) -> bool:
    """A layer changed, and by more than chance."""
    p = row["p_adjusted"]
    return p is not None and p < SIGNIFICANT and row["change"] > 0


def why(choice: Choice, ranking: Sequence[dict[str, Any]], changed: str) -> str:
    """Why these blocks, in one sentence of numbers.

    `ranking`: the condition's rows; `changed`: what the change is, in words.
    """
    unproven = {row["layer"] for row in ranking if not _proven(row)}  # by one control at least
    firm = sum(block + 1 not in unproven for block in choice.blocks)
    controls = [row["control"] for row in ranking if row["control"] is not None]
    against = " above the strictest control" if controls else " (no control)"
    blocks = (
        f"blocks {choice.blocks[0]}-{choice.blocks[-1]} (layers {choice.blocks[0] + 1}-"
        f"{choice.blocks[-1] + 1} of a record)"
    )
    found = f"{blocks} changed most"
    if choice.mean_change <= 0:
        n = len(choice.blocks)
        found = f"no {n} contiguous blocks changed more than under every control, nearest {blocks}"
    text = (
        f"{found}: {changed} {choice.mean_change:.4g}{against}; {firm} of {len(choice.blocks)} "
        f"layers changed by more than chance (adjusted p below {SIGNIFICANT:g})"
    )
    if choice.again_share is not None:
        text += (
            f"; the bootstrap picks the same blocks in {100 * choice.again_share:.0f} % of draws "
            f"and shares {100 * (choice.overlap_share or 0):.0f} % of them on average"
        )
    return text
