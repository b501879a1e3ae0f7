"""Which prompts a number is about: those linked to a base prompt, and those with categories."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensbench.records.lens_record import LensRecord


def linked_prompts(record: LensRecord, link: str) -> pd.DataFrame:
    """The prompts whose `link` column names a base prompt of this record, by prompt_id."""
    return record.prompts[record.prompts[link].isin(record.base_prompts.index)]


def control_prompts(record: LensRecord) -> pd.DataFrame:
    """Controls whose scored token is their base prompt's answer: the others test nothing."""
    controls = linked_prompts(record, "control_of")
    answers = record.prompts["answer_id"]
    return controls[controls["answer_id"] == controls["control_of"].map(answers)]


def category_prompts(record: LensRecord) -> pd.DataFrame:
    """Base prompts with a category and a null category, neither of which stands in the prompt.

    A word that stands in the prompt may be copied, so its rank says nothing about knowing.
    """
    base = record.base_prompts
    base = base[base["category_id"].notna() & base["null_category_id"].notna()]
    words, tokens = base[["category_id", "null_category_id"]].to_numpy(), base["token_ids"]
    free = [not set(w) & set(ids.tolist()) for w, ids in zip(words, tokens, strict=True)]
    return base[np.array(free, dtype=bool)]
