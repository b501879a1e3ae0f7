"""Which prompts a number is about: those linked to a base prompt, and those with categories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lensbench.records.lens.record import LensRecord, stands_in_prompt
from lensbench.records.schema.lens import NOT_MEASURED
from lensbench.stats.estimates import BASE, RELATION, n_relations


def why_nothing(values: pd.Series | pd.DataFrame, none: str) -> str:
    """The reason where no value is left: there was nothing to measure, or nobody did."""
    return NOT_MEASURED if len(values) else none


def clusters(linked: pd.DataFrame, link: str) -> dict[str, Any]:
    """What prompts that belong to base prompts are clustered by, as an estimate takes it.

    Their relations or, where there are none, their base prompts: several of one are alike.
    """
    if n_relations(linked["relation"]) or linked.empty:
        return {"clusters": linked["relation"], "group": RELATION}
    return {"clusters": linked[link], "group": BASE}


def linked_prompts(record: LensRecord, link: str) -> pd.DataFrame:
    """The prompts whose `link` column names a base prompt of this record, by prompt_id."""
    return record.prompts[record.prompts[link].isin(record.base_prompts.index)]


def control_prompts(record: LensRecord) -> pd.DataFrame:
    """Controls whose scored token is their base prompt's answer: the others test nothing.

    Where a token is not known the answers' texts are compared.
    """
    controls = linked_prompts(record, "control_of")
    same = {}
    for column in ("answer_id", "answer"):
        base = controls["control_of"].map(record.prompts[column])
        known = controls[column].notna() & base.notna()
        same[column] = (controls[column] == base).where(known)
    return controls[same["answer_id"].fillna(same["answer"]).eq(True)]


def category_prompts(record: LensRecord) -> pd.DataFrame:
    """Base prompts with an answer, a category and a null category that do not stand in the prompt.

    A word that stands in the prompt may be copied, so its rank says nothing about knowing.
    """
    base = record.answered
    for name in ("category", "null_category"):
        base = base[base[f"{name}_id"].notna() | base[name].notna() & base["token_ids"].isna()]
    free = [
        not any(stands_in_prompt(row, name) for name in ("category", "null_category"))
        for row in base.to_dict("records")
    ]
    return base[np.array(free, dtype=bool)]
