"""Diffs side by side: one row each, what it says of the conclusion and how far things moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from lensbench.report.diff import section as diff
from lensbench.report.kit.tables import Table
from lensbench.report.load import SecondRecord


def diffs_table(every: Sequence[tuple[SecondRecord, Mapping[str, Table]]]) -> Table:
    """One row for each diff of a run, in the order given."""
    note = (
        "Does the conclusion change: whether a late-binding verdict turns into another. Shifts: "
        "b minus a, over the prompts that both answer, of reaching rank 1 and of staying there. "
        "Same top token, and KL between the two lenses: at the last layer, which is the output. "
        "Parts from: the depth from which on that KL stays above the threshold."
    )
    frame = pd.DataFrame([_row(record, made) for record, made in every])
    return Table("diffs", "Diffs", frame, note)


def _row(record: SecondRecord, made: Mapping[str, Table]) -> dict[str, object]:
    a, b = diff.names(record)
    changes = made["changes"].frame
    last = changes.iloc[-1]
    parted = diff.parted(record, changes)
    first, stays = (row["shift_points"] for row in made["conclusion"].frame.to_dict("records"))
    return {
        "a": a,
        "b": b,
        "conclusion_changes": diff.answer(made)[0],
        "answered_change_points": made["answered"].frame.iloc[0]["change_points"],
        "first_shift_points": first,
        "stays_shift_points": stays,
        "top1_same_share": last["top1_same_share"],
        "lens_kl_bits_mean": last["lens_kl_bits_mean"],
        "parts_from_depth": parted["depth"],
    }
