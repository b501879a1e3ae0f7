"""What the cells of a diff come to: a row for each prompt, and a tested change for each layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lensbench.compare.diff import changes as maths
from lensbench.compare.diff.cells import as_table
from lensbench.compare.diff.pairs import LENS
from lensbench.records.lens.record import LensRecord
from lensbench.records.schema.diff import DIFF_LAYERS, DIFF_PROMPTS
from lensbench.records.schema.lens import MILESTONES
from lensbench.stats.estimates import n_relations

TESTED = ("entropy_bits", "kl_bits", "answer_rank_log2", "answer_prob")


def prompts_table(a: LensRecord, b: LensRecord, shared: pd.DataFrame) -> pa.Table:
    """One row per prompt: whether each model answers it, and its milestones in both."""
    frame = shared[["relation", "prompt", "answer"]].reset_index()
    for side, record in (("a", a), ("b", b)):
        own = record.milestones_of(LENS, shared.index).reindex(shared.index)
        frame[f"top1_correct_{side}"] = own["top1_correct"].to_numpy()
        for name in MILESTONES:
            layer = own[f"{name}_layer"].astype(float).to_numpy()
            frame[f"{name}_layer_{side}"] = layer
            frame[f"{name}_depth_{side}"] = layer / record.n_layers
    return as_table(frame, DIFF_PROMPTS.schema)


def layers_table(cells: pd.DataFrame) -> pa.Table:
    """One row per measure x layer: the mean change, and whether it is more than chance."""
    relation = cells.groupby("prompt_id", sort=False)["relation"].first()
    if not n_relations(relation):  # each prompt stands for itself, as in intervals
        relation = relation.index.to_series()
    places = cells[["depth", "layer"]].drop_duplicates()
    rows: list[dict[str, Any]] = []
    for measure in TESTED:
        by_depth = cells.assign(change=change_of(cells, measure)).pivot(
            index="prompt_id", columns="depth", values="change"
        )
        changes = by_depth.reindex(relation.index).to_numpy()
        whole = ~np.isnan(changes).any(axis=1)
        swapped = relation[whole].nunique()
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
                    "n_relations": swapped,
                    "p_adjusted": p[i] if tested else None,
                    "reason": None if tested else _untested(int(whole.sum()), swapped),
                }
            )
    return as_table(pd.DataFrame(rows), DIFF_LAYERS.schema)


def _untested(n_prompts: int, swapped: int) -> str:
    if not n_prompts:
        return "no prompt has it in both"
    return f"{swapped} relation: no test" if swapped < 2 else "nothing changes"


def change_of(cells: pd.DataFrame, measure: str) -> pd.Series:
    """b minus a; for ranks log2(b / a)."""
    if measure == "answer_rank_log2":
        return cells["answer_rank_log2_change"]
    return cells[f"{measure}_b"] - cells[f"{measure}_a"]
