"""Tasks with and without examples: accuracies, and what examples, labels and the template add."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lensbench.stats.estimates import clustered_estimate, paired_difference, within

ALL = "all tasks"
# What one condition has over another, item by item.
CONTRASTS = {
    "few-shot less zero-shot": ("examples", "instruction"),
    "examples with the instruction less zero-shot": ("instruction+examples", "instruction"),
    "few-shot less the same with answers exchanged": ("examples", "shuffled"),
    "zero-shot less the input alone": ("instruction", "input"),
    "chat template less plain, zero-shot": ("chat+instruction", "instruction"),
    "chat template less plain, with examples": (
        "chat+instruction+examples",
        "instruction+examples",
    ),
}


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per task (and one of all) x condition, with 95 % intervals over items."""
    found = []
    for task, own in _tasks(rows):
        for condition, here in own.groupby("condition", sort=False):
            row: dict[str, Any] = {"task": task, "condition": condition, "n_items": len(here)}
            clusters = here["task"] if task == ALL else None
            for name, column in (("accuracy", "is_answer"), ("named_share", "names_answer")):
                made = clustered_estimate(here[column].astype(float), clusters, "share")
                row[name] = within(made)
            found.append(row)
    return pd.DataFrame(found, columns=["task", "condition", "n_items", "accuracy", "named_share"])


def contrasts(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per task (and one of all) x contrast: pairs of the same items.

    Over all tasks a task is what is drawn, so that few of them give a wide interval.
    """
    found = []
    for task, own in _tasks(rows):
        by = {
            str(name): here.set_index(["task", "given"])["is_answer"].astype(float)
            for name, here in own.groupby("condition", sort=False)
        }
        for said, (one, other) in CONTRASTS.items():
            if one not in by or other not in by:
                continue
            index = by[one].index
            names = index.get_level_values("task" if task == ALL else "given")
            clusters = pd.Series(names, index)
            made = paired_difference(by[one], by[other], clusters, "share")
            found.append({"task": task, "contrast": said, "accuracy_pp": made})
    return pd.DataFrame(found, columns=["task", "contrast", "accuracy_pp"])


def _tasks(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if rows.empty:
        return []
    return [(ALL, rows), *((str(name), own) for name, own in rows.groupby("task", sort=False))]
