"""Does the step from a to b change the verdict of a lens study? Yes, no, or it cannot be told."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lensbench.records.record import Record
from lensbench.report.diff.tables import names
from lensbench.report.kit.markdown import inline, rendered_paragraphs
from lensbench.report.kit.table import Table
from lensbench.report.manifest import SIDES
from lensbench.stats.estimates import Estimate


def answer(made: Mapping[str, Table]) -> tuple[str, str]:
    """Whether a verdict changes: yes, no, cannot tell; and why.

    Yes: a late-binding verdict turns into another. No: both verdicts, of the first rank 1 and of
    the stable one, are the same on both sides. Cannot tell: one that differs, or all, cannot tell.
    """
    rows = made["verdict"].frame.to_dict("records")
    pairs = [tuple(_verdict_key(row, side) for side in SIDES) for row in rows]
    told = [pair for pair in pairs if "cannot tell" not in pair]
    if any(a != b for a, b in told):
        return "yes", "a late-binding verdict turns into another"
    if not told or any(a != b for a, b in pairs):
        return "cannot tell", "a late-binding verdict cannot be told on one side or both"
    if len(told) < len(pairs):
        return "no", "the late-binding verdict that can be told is the same on both sides"
    return "no", "both late-binding verdicts are the same on both sides"


def _verdict_key(row: Mapping[Hashable, Any], side: str) -> str:
    """A verdict, and for `outside` on which side of the claim."""
    verdict = row[f"{side}_verdict"]
    return f"outside: {row[f'{side}_reason']}" if verdict == "outside" else str(verdict)


def overview(record: Record, made: Mapping[str, Table]) -> str:
    """The answer in a sentence, with its numbers."""
    verdict, why = answer(made)
    (sentence,) = rendered_paragraphs(
        "diff/overview.md.j2",
        names=names(record),
        verdict=verdict,
        why=why,
        first=made["verdict"].row(emergence="first at rank 1"),
        change=made["accuracy"].frame.iloc[0]["change_pp"],
        n_layers=n_layers(record),
    )
    return sentence


def headline(made: Mapping[str, Table]) -> str:
    """The answer for an index."""
    shift: Estimate = made["verdict"].row(emergence="first at rank 1")["shift_pp"]
    change: Estimate = made["accuracy"].frame.iloc[0]["change_pp"]
    return (
        f"Verdict changes: **{answer(made)[0]}**; first at rank 1 {inline(shift, 'pp')} of depth "
        f"later; top-1 accuracy {inline(change, 'pp')}"
    )


def n_layers(record: Record) -> int:
    """Of the shallower model: one of its layers is the resolution of depth."""
    return min(int(record.manifest["model"][side]["n_layers"]) for side in SIDES)


def diverged(record: Record, changes: pd.DataFrame) -> dict[str, Any]:
    """Where the lenses diverge: the first layer from which on KL's interval is above the threshold.

    `layer` and `depth` are None where they do not, with the `reason`.
    """
    bits = float(record.manifest["settings"]["diverge_bits"])
    points = changes["lens_kl_bits_mean"]
    nowhere: dict[str, Any] = {"layer": None, "depth": None, "bits": bits}
    if points.iloc[-1].low is None:
        return nowhere | {"reason": points.iloc[-1].reason}
    above = np.array([point.low is not None and point.low > bits for point in points])
    if not above[-1]:
        return nowhere | {"reason": "not above it at the last layer"}
    below = np.flatnonzero(~above)
    place = changes.iloc[int(below[-1]) + 1 if below.size else 0]
    return {"layer": place["layer"], "depth": place["depth"], "bits": bits, "reason": None}
