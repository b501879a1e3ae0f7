"""What follows from the scores and from the model: names, ablations, circuits, similarity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lensbench.records.record import Record
from lensbench.report.attention import alike, causal, naming
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import View
from lensbench.stats.naming.names import LEAST_EXCESS

WINDOW = 5  # tokens of the score `local_window`
_SHOWN = (0.2, 0.4, 0.6, 0.8)  # thresholds in the text
TITLES = {
    "types": "The published types, by threshold",
    "redundancy": "Loss without the least needed heads",
    "similarity": "Heads that look alike",
}
SENTENCES = {
    "types": "Shares of all heads; intervals draw prompts.",
    "redundancy": "Mean over prompts that had no part in the order.",
    "similarity": "0 bits: two heads look at the same, 1 bit: never.",
}


@dataclass(frozen=True)
class Further:
    """Tables and views by name, and what the text is told."""

    tables: Mapping[str, Table] = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


def further(record: Record, rows: pd.DataFrame, prompts: pd.DataFrame) -> Further:
    """Whatever the run measured of it."""
    relation = dict(zip(prompts["prompt_id"], prompts["relation"], strict=True))
    names = record.table("names")
    n_heads = len(rows[["block", "head"]].drop_duplicates())
    found: dict[str, tuple[str, pd.DataFrame]] = {}
    if naming.has_nulls(rows):
        found |= naming.naming(rows, names, relation)
    curve = causal.redundancy(record.table("redundancy"), n_heads, relation)
    ablation = record.table("ablation")
    if len(ablation):
        losses = causal.losses(ablation, names, relation)
        found["ablation"] = ("What is lost without each head", losses)
        found["needed_by_name"] = ("What is lost without a head, by name", causal.by_name(losses))
        if len(curve):
            found["redundancy"] = ("How many heads can go", curve)
    if len(circuits := record.table("circuits")):
        found["circuits"] = ("What each head's weights do", circuits.drop(columns="model"))
    similarity = record.table("head_similarity")
    if len(similarity):
        found["clusters"] = ("Heads that look alike", alike.clusters(similarity, names))
    views = {
        "types": naming.swings(found["types"][1]) if "types" in found else None,
        "redundancy": causal.loss_curve(curve),
        "similarity": alike.similarity_map(similarity, names),
    }
    there = {key: view for key, view in views.items() if view is not None}
    values = _values(found, curve) | {"n_ablated": ablation["prompt_id"].nunique()}
    return Further(catalogue(found), there, values)


def _values(found: Mapping[str, tuple[str, pd.DataFrame]], curve: pd.DataFrame) -> dict[str, Any]:
    """Rows and columns that stand in the text, and the numbers of its sentences."""
    values: dict[str, Any] = {
        "least_excess": LEAST_EXCESS,
        "no_loss": causal.NO_LOSS,
        "n_spare": causal.at_no_loss(curve),
        "apart": alike.APART,
        "window": WINDOW,
    }
    if "clusters" in found:
        values["shown_clusters"] = alike.brief(found["clusters"][1])
    if "types" in found:
        types = found["types"][1]
        values["shown_types"] = types[types["threshold"].isin(_SHOWN)]
    if "thresholds" in found:
        thresholds = found["thresholds"][1]
        values["threshold_columns"] = [
            column
            for column in thresholds
            if column == "least_excess" or any(e.value for e in thresholds[column])
        ]
    if "circuits" in found:
        known = found["circuits"][1].dropna(subset=["copying"])
        ordered = known.sort_values("copying", ascending=False, kind="stable")
        values["shown_circuits"] = pd.concat([ordered.head(5), ordered.tail(5)]).drop_duplicates()
    return values
