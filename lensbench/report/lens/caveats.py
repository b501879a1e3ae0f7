"""What to know of a record before its numbers: what it lacks, and how answers were joined."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lensbench.records.lens.answer_forms import likelier_forms, said_of_forms
from lensbench.records.lens.record import LensRecord

# What a report speaks of.
_OF_CELLS = (
    "entropy_bits",
    "kl_bits",
    "answer_prob",
    "answer_rank",
    "top_ids",
    "top_probs",
    "top_tokens",
)
_OF_PROMPTS = ("token_ids", "tokens")


def columns_missing(record: LensRecord) -> list[tuple[str, str]]:
    """Columns of the main lens that are null where they could have numbers, and how often."""
    found = []
    answered = pa.array(record.answered.index, pa.string())
    for name in _OF_CELLS:
        rows = record.arrow_at_last([name], record.main_lens)
        if name.startswith("answer"):
            rows = rows.filter(pc.is_in(rows["prompt_id"], answered))
        null = pc.sum(pc.is_null(rows[name], nan_is_null=True), min_count=0).as_py()
        if null:
            found.append((name.replace("_", " "), f"{null} of {len(rows)} cells"))
    for name in _OF_PROMPTS:
        null = int(record.prompts[name].isna().sum())
        if null:
            found.append((name.replace("_", " "), f"{null} of {len(record.prompts)} prompts"))
    return found


def layers_missing(record: LensRecord) -> list[str]:
    """Layers of which there is no row."""
    there = set(record.arrow_at_last([], record.main_lens)["layer"].unique().to_pylist())
    absent = [layer for layer in range(record.n_layers + 1) if layer not in there]
    if absent == [0]:
        return ["The embedding (layer 0) was not read: a first layer is the first of those after."]
    if absent:
        named = ", ".join(map(str, absent))
        return [f"Layers that were not read: {named}. A first layer may be one of them."]
    return []


def forms_table(record: LensRecord) -> pd.DataFrame:
    """Prompts whose answer is likelier in its other form, with or without the space."""
    return likelier_forms(record.prompts, _last(record))


def said_of_joints(record: LensRecord) -> Iterator[str]:
    """Sentences on the joints of a record; none where all is plain."""
    yield from said_of_forms(record.prompts, _last(record))


def _last(record: LensRecord) -> pd.DataFrame:
    """What the answers' two forms are worth in the end, as numbers also where all are missing."""
    numbers = ["answer_rank", "answer_prob", "answer_other_rank", "answer_other_prob"]
    return record.at_output(numbers).astype(dict.fromkeys(numbers, float))
