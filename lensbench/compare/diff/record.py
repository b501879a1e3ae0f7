"""Two lens records of the same prompts compared, prompt by prompt and layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensbench.compare.diff.cells import Sides, by_prompt, compare_place, side_by_side
from lensbench.compare.diff.changes import SEED
from lensbench.compare.diff.pairs import LENS, mismatches, one_sided, shared_prompts
from lensbench.compare.diff.spec import DiffSpec
from lensbench.compare.diff.tables import layers_table, prompts_table
from lensbench.compare.diff.two_lenses import kept_by_both
from lensbench.errors import InputProblems, Problem
from lensbench.files import sha256_of
from lensbench.lens.gate import require
from lensbench.progress import Progress, Watch, ignore
from lensbench.records.engine import Work, make
from lensbench.records.lens.record import LensRecord
from lensbench.records.open import open_lens_record
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request, wider
from lensbench.records.store import RecordStore

_GROWING = ("limit", "lens_sha256")  # what of a record changes when it is widened


def run_diff(
    a: Path,
    b: Path,
    out: Path,
    how: DiffSpec = DiffSpec(),  # noqa: B008
    progress: Watch = ignore,
) -> list[Problem]:
    """Compare lens record `b` with `a` (b minus a) into a record of kind "diff" in `out`.

    One that is finished is left alone, one that was interrupted goes on; when the two records were
    widened since, it is made again.

    Returns what was skipped: prompts that only one of the two measured.

    Raises:
        InputProblems: everything in which the two records do not match.
        RecordsError: a record that is missing, incomplete or damaged, or altered residuals.
        GateError: residuals that do not give what the record says was read from them.
    """
    first, second = open_lens_record(a), open_lens_record(b)
    if problems := mismatches(first, second, how.relative_depth, how.context):
        raise InputProblems(problems)
    store = RecordStore(out, f"{first.name} to {second.name}", "diff")
    facts = _facts(first, second)
    request = Request(
        store, settings_of(how), facts, outgrown=lambda there: _outgrown(there, facts)
    )

    def prepare(record: Recording) -> Work[Sides, int]:
        progress(Progress(f"reading {store.model}"))
        record.begin(request.model)
        return _work(first, second, how.device)

    return make(request, prepare, progress)


def settings_of(how: DiffSpec) -> dict[str, Any]:
    """What decides the numbers, besides the two records."""
    return {"lens": LENS, "seed": SEED} | how.settings()


def _facts(a: LensRecord, b: LensRecord) -> dict[str, Any]:
    """Both models, and how the two runs were made, for the manifest."""
    return {
        "name": f"{a.name} to {b.name}",
        "a": _side(a),
        "b": _side(b),
    }


def _side(record: LensRecord) -> dict[str, Any]:
    settings = record.settings
    kept = ("prompts", "prompts_sha256", "template", "limit")
    facts = record.model | {key: settings.get(key) for key in kept}
    return facts | {"lens_sha256": sha256_of(record.folder / "lens.parquet")}


def _outgrown(there: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the manifest there is of these very records before they were widened."""
    sides = [(there["model"].get(side, {}), now[side]) for side in "ab"]
    grown = [wider(before.get("limit"), after["limit"]) for before, after in sides]
    return any(grown) and all(
        {**before, **dict.fromkeys(_GROWING)} == {**after, **dict.fromkeys(_GROWING)}
        for before, after in sides
    )


def _work(a: LensRecord, b: LensRecord, device: str | None) -> Work[Sides, int]:
    """A job for each layer, or each share of the depth."""
    shared = shared_prompts(a, b)
    kept = kept_by_both(a, b, shared.index, device)
    sides = side_by_side(a, b, shared, kept)

    def finish(parts: Parts) -> Finished:
        identities = kept.identities(parts.notes)
        require(identities)
        cells = by_prompt(parts.table("diff_cells"), len(sides.depths))
        tables = {
            "diff_cells": cells,
            "diff_prompts": prompts_table(a, b, shared),
            "diff_layers": layers_table(cells.to_pandas()),
        }
        reasons = {
            "residuals_reason": kept.residuals_reason,
            "lenses_reason": kept.lenses_reason,
        }
        gate = [identity.as_dict() for identity in identities]
        return Finished(one_sided(a, b), tables, gate, facts=reasons)

    return Work(sides, compare_place, [list(range(len(sides.depths)))], finish, unit="layers")
