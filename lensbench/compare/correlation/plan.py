"""What a correlation study compares: its conditions aligned, one `Study` for each span."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lensbench.compare.correlation.conditions import Aligned, align
from lensbench.compare.correlation.curves import Resampling
from lensbench.compare.correlation.runs import Run
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.compare.correlation.study import Study, known_measures
from lensbench.compare.forms import MassiveDimension, massive_dimensions, massive_masks
from lensbench.errors import InputProblems, Problem
from lensbench.stats.resampling import codes_of

Massive = dict[str, dict[str, list[MassiveDimension]]]  # by span and condition


def plan_studies(spec: CorrelationSpec, runs: Sequence[Run]) -> tuple[list[Study], Massive]:
    """One study for each span, without the massive dimensions of all spans.

    Raises InputProblems and RecordsError for runs that cannot be compared.
    """
    aligned = [align(runs, span, spec.relative_depth, not spec.unpaired) for span in spec.spans]
    massive = {
        one.span: {name: massive_dimensions(own) for name, own in one.values.items()}
        for one in aligned
    }
    return _studies(spec, aligned, massive), massive


def _studies(
    spec: CorrelationSpec,
    aligned: Sequence[Aligned],
    massive: Massive,
) -> list[Study]:
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


def _codes(ids: Sequence[str], groups: dict[str, str] | None) -> Int[np.ndarray, " prompt"]:
    if groups is None:
        return codes_of(None, len(ids))
    lacking = [item for item in ids if item not in groups]
    if lacking:
        what = f"no group for {len(lacking)} prompts, {lacking[0]!r} first"
        raise InputProblems([Problem("groups", what, "Give every prompt a row in the file.")])
    return codes_of([groups[item] for item in ids], len(ids))
