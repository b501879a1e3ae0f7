"""Models side by side, at equal relative depth and paired by prompt."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import pandas as pd

from lensbench.records.lens_record import LensRecord
from lensbench.report.kit.table import Table
from lensbench.report.lens import curves
from lensbench.report.lens.headlines import EMERGENCE, top1_correct
from lensbench.stats.bootstrap import paired_difference

Named = tuple[str, LensRecord]
_CURVES = {
    "depth_curves": ("entropy_bits", "kl_bits", "answer_prob"),
    "emergence": ("answer_rank1_share", "rank1_stable_share"),
}


def models_table(
    n_layers: Mapping[str, int], own: Mapping[str, Mapping[str, Table]]
) -> pd.DataFrame:
    """The headlines of every model, from its own tables."""
    return pd.DataFrame([_headlines(name, n_layers[name], tables) for name, tables in own.items()])


def _headlines(name: str, n_layers: int, tables: Mapping[str, Table]) -> dict[str, object]:
    base = tables["coverage"].row(prompts="base")
    emerged = [tables["late_binding"].row(emergence=words) for words in EMERGENCE.values()]
    depths = {f"{m}_depth": row["median_depth"] for m, row in zip(EMERGENCE, emerged, strict=True)}
    category = tables["category"].row(prompts="all")
    return {
        "model": name,
        "layers": n_layers,
        "n_prompts": base["n_prompts"],
        "top1_accuracy": base["top1_accuracy"],
        **depths,
        "category_first_share": category["category_first_share"],
        "late_binding": emerged[0]["verdict"],
        "reason": emerged[0]["reason"],
    }


def pairs_table(every: Mapping[str, LensRecord]) -> pd.DataFrame:
    """Every pair of models: differences (second minus first) over prompts that both were asked.

    Depth differences are medians over the prompts that both get right.
    """
    return pd.DataFrame([_pair(a, b) for a, b in combinations(every.items(), 2)])


def _pair(a: Named, b: Named) -> dict[str, object]:
    shared = shared_prompts(a[1], b[1])
    left, right = (r.milestones_of(r.main_lens, shared.index) for _, r in (a, b))
    relation = shared["relation"]
    row: dict[str, object] = {
        "first": a[0],
        "second": b[0],
        "n_shared_prompts": len(shared),
        "n_both_correct": int((top1_correct(left) * top1_correct(right)).sum()),
        "top1_accuracy_difference_pp": paired_difference(
            top1_correct(right), top1_correct(left), relation, "mean"
        ),
    }
    for name in EMERGENCE:
        ours, theirs = (m[f"{name}_depth"].where(top1_correct(m) == 1) for m in (right, left))
        row[f"{name}_difference_pp"] = paired_difference(ours, theirs, relation, "median")
    return row


def shared_prompts(a: LensRecord, b: LensRecord) -> pd.DataFrame:
    """Base prompts with the same id, text and answer in both records, by prompt_id."""
    left, right = a.base_prompts, b.base_prompts
    left = left.loc[left.index.intersection(right.index)]
    other = right.loc[left.index]
    answers, others = (side["answer"].fillna("") for side in (left, other))  # missing is alike
    return left[(left["prompt"] == other["prompt"]) & (answers == others)]


def grid_table(own: Mapping[str, Mapping[str, Table]]) -> pd.DataFrame:
    """Every model's curves on one grid of relative depths; `own` holds each model's tables."""
    frames = []
    for model, tables in own.items():
        frame = pd.DataFrame({"model": model, "depth": curves.GRID})
        for name, columns in _CURVES.items():
            for column in columns:
                points = curves.on_grid(tables[name].frame, column)
                stem, unit = column.rsplit("_", 1)
                frame[column] = points["value"]
                frame[f"{stem}_low_{unit}"] = points["low"]
                frame[f"{stem}_high_{unit}"] = points["high"]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
