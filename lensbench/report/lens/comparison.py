"""Models side by side, at equal relative depth and paired by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from lensbench.report.lens import curves
from lensbench.report.lens.contrasts import category_flags
from lensbench.report.lens.groups import base_prompts, milestones_of
from lensbench.report.lens.headlines import EMERGENCE, coverage, milestone_depth, top1_correct
from lensbench.report.load import Record
from lensbench.stats.bootstrap import (
    clustered_bootstrap,
    late_binding_verdict,
    paired_difference,
)


def models_table(records: Sequence[Record]) -> pd.DataFrame:
    """The headlines of every model: coverage, emergence, verdict, category before instance."""
    rows = []
    for record in records:
        first, stays = (milestone_depth(record, name) for name in EMERGENCE)
        flags = category_flags(record, record.main_lens)
        verdict = late_binding_verdict(first)
        rows.append(
            {
                "model": record.model,
                "layers": record.n_layers,
                "count": len(base_prompts(record)),
                "answered_share": coverage(record, base_prompts(record)),
                "rank1_first_depth": first,
                "rank1_stable_depth": stays,
                "category_first_share": clustered_bootstrap(
                    flags["category"], flags["relation"], nothing="no prompts with a category word"
                ),
                "late_binding": verdict.answer,
                "reason": verdict.reason,
            }
        )
    return pd.DataFrame(rows)


def pairs_table(records: Sequence[Record]) -> pd.DataFrame:
    """Every pair of models: differences (second minus first) over prompts that both were asked.

    Depth differences are medians over the prompts that both answer.
    """
    return pd.DataFrame([_pair(a, b) for a, b in combinations(records, 2)])


def _pair(a: Record, b: Record) -> dict[str, object]:
    shared = shared_prompts(a, b)
    left, right = (milestones_of(record, record.main_lens, shared) for record in (a, b))
    relation = shared["relation"]
    row: dict[str, object] = {
        "first": a.model,
        "second": b.model,
        "shared_prompts": len(shared),
        "both_answer": int((top1_correct(left) * top1_correct(right)).sum()),
        "answered_difference_points": paired_difference(
            top1_correct(right), top1_correct(left), relation, "mean"
        ),
    }
    for name in EMERGENCE:
        ours, theirs = (m[f"{name}_depth"].where(top1_correct(m) == 1) for m in (right, left))
        row[f"{name}_difference_points"] = paired_difference(ours, theirs, relation, "median")
    return row


def shared_prompts(a: Record, b: Record) -> pd.DataFrame:
    """Base prompts with the same id, text and answer in both records, indexed by prompt_id."""
    left, right = base_prompts(a), base_prompts(b)
    left = left.loc[left.index.intersection(right.index)]
    other = right.loc[left.index]
    return left[(left["prompt"] == other["prompt"]) & (left["answer"] == other["answer"])]


def grid_table(tables: dict[str, dict[str, pd.DataFrame]]) -> pd.DataFrame:
    """Every model's curves on one grid of relative depths; `tables`: model -> table -> frame."""
    wanted = {
        "depth_curves": ("entropy_bits", "kl_bits", "answer_prob"),
        "emergence": ("answer_rank1_share", "rank1_stable_share"),
    }
    frames = []
    for model, own in tables.items():
        frame = pd.DataFrame({"model": model, "depth": curves.GRID})
        for name, columns in wanted.items():
            for column in columns:
                points = curves.on_grid(own[name], column)
                stem, unit = column.rsplit("_", 1)
                frame[column] = points["value"]
                frame[f"{stem}_low_{unit}"] = points["low"]
                frame[f"{stem}_high_{unit}"] = points["high"]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
