"""Does the choice of lens change a verdict?"""

from __future__ import annotations

import pandas as pd

from lensbench.records.lens_record import LensRecord
from lensbench.report.kit.markdown import header
from lensbench.report.lens.contrasts import category_flags
from lensbench.report.lens.headlines import EMERGENCE, milestone_depth, top1_correct
from lensbench.stats.bootstrap import (
    Estimate,
    clustered_bootstrap,
    late_binding_verdict,
    overlap,
)


def sensitivity_table(record: LensRecord) -> pd.DataFrame:
    """Each headline by each lens, and whether the choice of lens changes a verdict."""
    rows: list[dict[str, object]] = []
    base = record.base_prompts
    for lens in record.lenses:
        milestones = record.milestones_of(lens, base.index)
        read = (top1_correct(milestones) == 1) & milestones["rank1_stable_layer"].notna()
        flags = category_flags(record, lens)
        first, stays = (milestone_depth(record, name, lens) for name in EMERGENCE)
        rows.append(
            {
                "lens": lens,
                "rank1_first_depth": first,
                "rank1_stable_depth": stays,
                "top1_accuracy": clustered_bootstrap(read, milestones["relation"]),
                "category_first_share": clustered_bootstrap(
                    flags["category"], flags["relation"], nothing="no prompts with a category word"
                ),
                "verdict": late_binding_verdict(first).answer,
            }
        )
    reference = next(row for row in rows if row["lens"] == record.main_lens)
    for row in rows:
        row["verdict_changes"] = "reference" if row is reference else _changes(row, reference)
    return pd.DataFrame(rows)


def _changes(row: dict[str, object], reference: dict[str, object]) -> str:
    """What differs from the reference lens: the verdict, or an interval that does not overlap."""
    found = ["the verdict differs"] if row["verdict"] != reference["verdict"] else []
    unknown = []
    for column, value in row.items():
        other = reference[column]
        if isinstance(value, Estimate) and isinstance(other, Estimate):
            shared = overlap(value, other)
            name = header(column)
            if shared is None:
                unknown.append(name)
            elif not shared:
                found.append(f"{name}: intervals do not overlap")
    if found:
        return "yes: " + "; ".join(found)
    return f"cannot tell: no interval for {', '.join(unknown)}" if unknown else "no"
