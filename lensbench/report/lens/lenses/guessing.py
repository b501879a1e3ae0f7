"""How many facts the controls of a fitted lens read too, and what they take from its depths."""

from __future__ import annotations

import pandas as pd

from lensbench.records.lens.record import LensRecord
from lensbench.records.schema.lens import READ_AT
from lensbench.report.lens.headlines import EMERGENCE, correct_rows, milestone_depth
from lensbench.stats.estimates import clustered_estimate


def has_controls(record: LensRecord, lens: str) -> bool:
    """Whether anything was read with controls of this lens."""
    ranks = record.arrow_at_last(["answer_guess_rank"], lens)["answer_guess_rank"]
    return ranks.null_count < len(ranks)


def guesses_table(record: LensRecord) -> pd.DataFrame:
    """Per fitted lens and emergence: what its controls read, and the depth with and without it.

    Over the base prompts that are top-1 correct.
    """
    rows = []
    for lens in record.headline_lenses:
        if not has_controls(record, lens):
            continue
        facts, nothing = correct_rows(record, lens)
        for name, words in EMERGENCE.items():
            guessed = record.guessed(lens, facts.index, READ_AT[name]).astype(float)
            without = facts[f"{name}_guessed_layer"].astype(float) / record.n_layers
            rows.append(
                {
                    "lens": lens,
                    "emergence": words,
                    "n_facts": len(facts),
                    "n_guessed": int(guessed.sum()),
                    "guessed_share": clustered_estimate(
                        guessed, facts["relation"], "share", nothing
                    ),
                    "median_depth": milestone_depth(record, name, lens),
                    "uncorrected_depth": clustered_estimate(
                        facts[f"{name}_depth"].fillna(without), facts["relation"], "median", nothing
                    ),
                }
            )
    return pd.DataFrame(rows)
