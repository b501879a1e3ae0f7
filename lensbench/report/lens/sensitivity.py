"""Does the choice of lens change a conclusion?"""

from __future__ import annotations

import pandas as pd

from lensbench.report.lens.contrasts import category_flags
from lensbench.report.lens.groups import (
    base_prompts,
    milestones_of,
)
from lensbench.report.lens.headlines import EMERGENCE, milestone_depth, top1_correct
from lensbench.report.load import Record
from lensbench.stats.bootstrap import (
    Estimate,
    clustered_bootstrap,
    late_binding_verdict,
    overlap,
)


def sensitivity_table(record: Record) -> pd.DataFrame:
    """Each headline by each lens, and whether the choice of lens changes the conclusion."""
    rows: list[dict[str, object]] = []
    base = base_prompts(record)
    for lens in record.lenses:
        milestones = milestones_of(record, lens, base)
        read = (top1_correct(milestones) == 1) & milestones["rank1_stable_layer"].notna()
        flags = category_flags(record, lens)
        first, stays = (milestone_depth(record, name, lens) for name in EMERGENCE)
        rows.append(
            {
                "lens": lens,
                "rank1_first_depth": first,
                "rank1_stable_depth": stays,
                "answered_share": clustered_bootstrap(read, milestones["relation"]),
                "category_first_share": clustered_bootstrap(
                    flags["category"], flags["relation"], nothing="no prompts with a category word"
                ),
                "verdict": late_binding_verdict(first).answer,
            }
        )
    reference = next(row for row in rows if row["lens"] == record.main_lens)
    for row in rows:
        row["changes"] = "reference" if row is reference else _changes(row, reference)
    return pd.DataFrame(rows)


def _changes(row: dict[str, object], reference: dict[str, object]) -> str:
    """What differs from the reference lens: the verdict, or an interval that does not overlap."""
    found = ["the verdict differs"] if row["verdict"] != reference["verdict"] else []
    unknown = []
    for column, value in row.items():
        other = reference[column]
        if isinstance(value, Estimate) and isinstance(other, Estimate):
            shared = overlap(value, other)
            name = column.replace("_", " ")
            if shared is None:
                unknown.append(name)
            elif not shared:
                found.append(f"{name}: intervals do not overlap")
    if found:
        return "yes: " + "; ".join(found)
    return f"cannot tell: no interval for {', '.join(unknown)}" if unknown else "no"
