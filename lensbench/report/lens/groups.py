"""Which rows a number is about: base prompts, controls, paraphrases, reverses, one lens."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensbench.report.load import Record

LINKS = ("control_of", "paraphrase_of", "reverse_of")


def base_prompts(record: Record) -> pd.DataFrame:
    """The plain questions, indexed by prompt_id: no control, paraphrase or reverse."""
    prompts = record.prompts.set_index("prompt_id")
    return prompts[prompts[list(LINKS)].isna().all(axis=1)]


def linked_prompts(record: Record, link: str) -> pd.DataFrame:
    """The prompts whose `link` column names a base prompt of this record, indexed by prompt_id."""
    prompts = record.prompts.set_index("prompt_id")
    return prompts[prompts[link].isin(base_prompts(record).index)]


def control_prompts(record: Record) -> pd.DataFrame:
    """Controls whose scored token is their base prompt's answer: the others test nothing."""
    controls = linked_prompts(record, "control_of")
    answers = record.prompts.set_index("prompt_id")["answer_id"]
    return controls[controls["answer_id"] == controls["control_of"].map(answers)]


def category_prompts(record: Record) -> pd.DataFrame:
    """Base prompts with a category and a null category, neither of which stands in the prompt.

    A word that stands in the prompt may be copied, so its rank says nothing about knowing.
    """
    base = base_prompts(record)
    base = base[base["category_id"].notna() & base["null_category_id"].notna()]
    words, tokens = base[["category_id", "null_category_id"]].to_numpy(), base["token_ids"]
    free = [not set(w) & set(ids.tolist()) for w, ids in zip(words, tokens, strict=True)]
    return base[np.array(free, dtype=bool)]


def milestones_of(record: Record, lens: str, prompts: pd.DataFrame) -> pd.DataFrame:
    """Milestone rows of `prompts` by one lens, indexed by prompt_id, in their order."""
    rows = record.milestones[record.milestones["lens"] == lens].set_index("prompt_id")
    return rows.reindex(prompts.index.intersection(rows.index))


def by_layer(record: Record, column: str, prompts: pd.DataFrame, lens: str) -> pd.DataFrame:
    """`column` at the last position as prompt x layer (0 = embedding), NaN where not measured."""
    lens_rows = record.lens
    rows = lens_rows[
        (lens_rows["lens"] == lens)
        & lens_rows["is_last"]
        & lens_rows["site"].isin(["embed", "resid_post"])
        & lens_rows["prompt_id"].isin(prompts.index)
    ]
    return rows.pivot(index="prompt_id", columns="layer", values=column).sort_index()
