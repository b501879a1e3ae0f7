"""Does the choice of lens change a verdict?"""

from __future__ import annotations

import pandas as pd

from lensbench.records.lens.record import LensRecord
from lensbench.records.schema.lens import GUESSED, NOT_MEASURED
from lensbench.report.kit.markdown import header
from lensbench.report.lens.contrasts import category_flags
from lensbench.report.lens.groups import why_nothing
from lensbench.report.lens.headlines import (
    EMERGENCE,
    claim_verdict,
    milestone_depth,
    reached,
    top1_correct,
    unmeasured,
)
from lensbench.stats.estimates import (
    Estimate,
    clustered_estimate,
    overlap,
)

_CLAIMED = "rank1_first_depth"  # what the verdict is about


def sensitivity_table(record: LensRecord) -> pd.DataFrame:
    """Each headline by each lens, and whether the choice of lens changes a verdict."""
    rows: list[dict[str, object]] = []
    base = record.answered
    for lens in record.lenses:
        milestones = record.milestones_of(lens, base.index)
        correct = top1_correct(milestones)
        read = (correct * reached(milestones, "rank1_stable")).where(correct != 0, 0)
        read = read.mask(milestones["rank1_stable_reason"] == GUESSED)
        flags = category_flags(record, lens)
        first, stays = (milestone_depth(record, name, lens) for name in EMERGENCE)
        rows.append(
            {
                "lens": lens,
                _CLAIMED: first,
                "rank1_stable_depth": stays,
                "top1_accuracy": clustered_estimate(
                    read,
                    milestones["relation"],
                    "share",
                    why_nothing(milestones, "no prompts with an answer"),
                ),
                "category_first_share": clustered_estimate(
                    flags["category"],
                    flags["relation"],
                    "share",
                    why_nothing(flags, "no prompts with a category word"),
                ),
                "verdict": claim_verdict(first).answer,
            }
        )
    reference = next(row for row in rows if row["lens"] == record.main_lens)
    for row in rows:
        row["verdict_changes"] = "reference" if row is reference else _changes(row, reference)
    return pd.DataFrame(rows)


def _changes(row: dict[str, object], reference: dict[str, object]) -> str:
    """What differs from the reference lens: the verdict, or an interval that does not overlap.

    What neither lens has, such as a category share where no prompt has a category word, changes
    nothing.
    """
    found, unknown, compared = [], [], 0
    for column, value in row.items():
        other = reference[column]
        if isinstance(value, Estimate) and isinstance(other, Estimate):
            if value.value is None and other.value is None:
                continue
            compared += 1
            shared, name = overlap(value, other), header(column)
            if column == _CLAIMED and row["verdict"] != reference["verdict"]:
                told = not (unmeasured(value) or unmeasured(other))
                found += ["the verdict differs"] if told else []
            if shared is None:
                unknown.append(name)
            elif not shared:
                found.append(f"{name}: intervals do not overlap")
    if found:
        return "yes: " + "; ".join(found)
    if not compared:
        return NOT_MEASURED
    return f"cannot tell: no interval for {', '.join(unknown)}" if unknown else "no"
