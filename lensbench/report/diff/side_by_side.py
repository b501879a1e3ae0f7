"""Diffs side by side: a row each, whether the verdict changes and how far things moved."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lensbench.report.diff.tables import names
from lensbench.report.diff.verdict import answer, diverged
from lensbench.report.kit.markdown import rendered
from lensbench.report.kit.table import catalogue
from lensbench.report.section import Reported, Section


def diffs(reports: Sequence[Reported]) -> Section:
    """One row for each diff of a run, in the order given."""
    tables = catalogue({"diffs": ("Diffs", pd.DataFrame(list(map(_row, reports))))})
    text = rendered("diff/side_by_side.md.j2", tables=tables)
    return Section("Diffs side by side", tables, text)


def _row(one: Reported) -> dict[str, object]:
    made = one.section.tables
    a, b = names(one.record)
    changes = made["changes"].frame
    last = changes.iloc[-1]
    first, stable = (row["shift_pp"] for row in made["verdict"].frame.to_dict("records"))
    return {
        "a": a,
        "b": b,
        "verdict_changes": answer(made)[0],
        "top1_accuracy_change_pp": made["accuracy"].frame.iloc[0]["change_pp"],
        "rank1_first_shift_pp": first,
        "rank1_stable_shift_pp": stable,
        "top1_same_share": last["top1_same_share"],
        "lens_kl_bits_mean": last["lens_kl_bits_mean"],
        "diverges_from_depth": diverged(one.record, changes)["depth"],
    }
