"""Two lens records of the same prompts compared, prompt by prompt and layer by layer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float

from lensbench.compare.diff import changes as maths
from lensbench.compare.diff.pairs import LENS, by_layer, mismatches, one_sided, shared_prompts
from lensbench.compare.diff.spec import DiffSpec
from lensbench.compare.diff.two_lenses import Moved, compare_residuals
from lensbench.errors import InputProblems, Problem
from lensbench.files import sha256_of
from lensbench.lens.gate import require
from lensbench.progress import Watch, ignore
from lensbench.records.lens_record import LensRecord
from lensbench.records.manifest import new_manifest, peak_memory_bytes
from lensbench.records.open import open_lens_record
from lensbench.records.schema.diff import DIFF_CELLS, DIFF_LAYERS, DIFF_PROMPTS
from lensbench.records.schema.lens import MILESTONES
from lensbench.records.store import RecordStore

RELATIVE_DEPTHS = np.linspace(0, 1, 21)  # where models of different depth are compared
_BOTH = ("entropy_bits", "kl_bits", "answer_rank", "answer_prob")
_TESTED = ("entropy_bits", "kl_bits", "answer_rank_log2", "answer_prob")


def run_diff(
    a: Path,
    b: Path,
    out: Path,
    how: DiffSpec = DiffSpec(),  # noqa: B008
    progress: Watch = ignore,
) -> list[Problem]:
    """Compare lens record `b` with `a` (b minus a) into a record of kind "diff" in `out`.

    One that is finished is left alone.

    Returns what was left out: prompts that only one of the two measured.

    Raises:
        InputProblems: everything in which the two records do not match.
        RecordsError: a record that is missing, incomplete or damaged, or altered residuals.
        GateError: residuals that do not give what the record says was read from them.
    """
    started = time.monotonic()
    first, second = open_lens_record(a), open_lens_record(b)
    if problems := mismatches(first, second, how.relative_depth, how.context):
        raise InputProblems(problems)
    shared = shared_prompts(first, second)
    left_out = one_sided(first, second)
    store = RecordStore(out, f"{first.name} to {second.name}", "diff")
    settings = {"lens": LENS, "seed": maths.SEED} | how.settings()
    facts = _facts(first, second)
    manifest = new_manifest(facts, settings, "diff")
    with store.locked():
        if store.is_complete(settings, facts):
            return store.problems()
        store.start(manifest)
        moved = compare_residuals(first, second, shared.index, how.device, progress)
        require(moved.identities)
        depths = _depths(first, second)
        cells = _cells(first, second, shared, depths, moved)
        store.write_table("diff_cells", _as_table(cells, DIFF_CELLS.schema))
        store.write_table(
            "diff_prompts", _as_table(_prompts(first, second, shared), DIFF_PROMPTS.schema)
        )
        store.write_table("diff_layers", _as_table(_layers(cells), DIFF_LAYERS.schema))
        store.write_table("problems", store.problems_table(left_out))
        store.finish(
            manifest
            | {
                "gate": [identity.as_dict() for identity in moved.identities],
                "residuals_reason": moved.residuals_reason,
                "lenses_reason": moved.lenses_reason,
                "problems": len(left_out),
                "wall_s": round(time.monotonic() - started, 1),
                "peak_memory_bytes": peak_memory_bytes(),
            }
        )
    return left_out


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


def _depths(a: LensRecord, b: LensRecord) -> Float[np.ndarray, " layer"]:
    """Where the two are compared: at their layers, or at shares of their blocks."""
    if a.n_layers == b.n_layers:
        return np.arange(a.n_layers + 1) / a.n_layers
    return RELATIVE_DEPTHS


def _cells(
    a: LensRecord,
    b: LensRecord,
    shared: pd.DataFrame,
    depths: Float[np.ndarray, " layer"],
    moved: Moved,
) -> pd.DataFrame:
    """One row per prompt x layer: both readings, and what only both together give."""
    by_layer = a.n_layers == b.n_layers
    n_prompts, n_layers = len(shared), len(depths)
    columns: dict[str, Any] = {
        "prompt_id": np.repeat(shared.index, n_layers),
        "relation": np.repeat(shared["relation"].to_numpy(), n_layers),
        "layer": np.tile(np.arange(n_layers), n_prompts) if by_layer else None,
        "depth": np.tile(depths, n_prompts),
    }
    for name in _BOTH:
        for side, record in (("a", a), ("b", b)):
            values = (
                record.by_layer(name, shared.index, LENS)
                .reindex(shared.index)
                .to_numpy(dtype=np.float64)
            )
            if not by_layer:
                own = np.arange(record.n_layers + 1) / record.n_layers
                values = maths.at_depths(values, own, depths)
            columns[f"{name}_{side}"] = values.reshape(-1)
    ranks = columns["answer_rank_a"], columns["answer_rank_b"]
    columns["answer_rank_log2_change"] = maths.rank_change(*ranks)
    columns["top1_same"] = _top1_same(a, b, shared.index) if by_layer else None
    for name, both in moved.columns.items():
        columns[name] = None if both is None else both.reshape(-1)
    return pd.DataFrame(columns)


def _top1_same(a: LensRecord, b: LensRecord, ids: pd.Index) -> np.ndarray:
    """Whether both lenses have the same top token, prompt by prompt."""
    tops = [by_layer(r, "top_ids", ids).map(lambda top: int(top[0])).to_numpy() for r in (a, b)]
    return (tops[0] == tops[1]).reshape(-1)


def _prompts(a: LensRecord, b: LensRecord, shared: pd.DataFrame) -> pd.DataFrame:
    """One row per prompt: whether each model answers it, and its milestones in both."""
    frame = shared[["relation", "prompt", "answer"]].reset_index()
    for side, record in (("a", a), ("b", b)):
        own = record.milestones_of(LENS, shared.index).reindex(shared.index)
        frame[f"top1_correct_{side}"] = own["top1_correct"].to_numpy()
        for name in MILESTONES:
            layer = own[f"{name}_layer"].astype(float).to_numpy()
            frame[f"{name}_layer_{side}"] = layer
            frame[f"{name}_depth_{side}"] = layer / record.n_layers
    return frame


def _layers(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per measure x layer: the mean change, and whether it is more than chance."""
    relation = cells.groupby("prompt_id", sort=False)["relation"].first()
    places = cells[["depth", "layer"]].drop_duplicates()
    rows: list[dict[str, Any]] = []
    for measure in _TESTED:
        by_depth = cells.assign(change=change_of(cells, measure)).pivot(
            index="prompt_id", columns="depth", values="change"
        )
        changes = by_depth.reindex(relation.index).to_numpy()
        whole = ~np.isnan(changes).any(axis=1)
        n_relations = relation[whole].nunique()
        p = maths.adjusted_p(changes, relation.tolist())
        for i, (depth, layer) in enumerate(places.itertuples(index=False)):
            tested = not np.isnan(p[i])
            rows.append(
                {
                    "measure": measure,
                    "layer": layer,
                    "depth": depth,
                    "mean_change": changes[whole, i].mean() if whole.any() else None,
                    "n_prompts": int(whole.sum()),
                    "n_relations": n_relations,
                    "p_adjusted": p[i] if tested else None,
                    "reason": None if tested else _untested(int(whole.sum()), n_relations),
                }
            )
    return pd.DataFrame(rows)


def _untested(n_prompts: int, n_relations: int) -> str:
    if not n_prompts:
        return "no prompt has it in both"
    return f"{n_relations} relation: no test" if n_relations < 2 else "nothing changes"


def change_of(cells: pd.DataFrame, measure: str) -> pd.Series:
    """b minus a; for ranks log2(b / a)."""
    if measure == "answer_rank_log2":
        return cells["answer_rank_log2_change"]
    return cells[f"{measure}_b"] - cells[f"{measure}_a"]


def _as_table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """NaN becomes null."""
    arrays = [pa.array(frame[field.name], from_pandas=True).cast(field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)
