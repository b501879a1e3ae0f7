"""Does the step from a to b change the verdict of a lens study? Yes, no, or it cannot be told."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.report.diff.tables import names
from lensbench.report.kit import numbers
from lensbench.report.kit.table import Table
from lensbench.report.manifest import SIDES
from lensbench.stats.bootstrap import TINY, Estimate

_SAID = {"inside": "borne out", "outside": "not borne out", "cannot tell": "left open"}


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
    first = made["verdict"].row(emergence="first at rank 1")
    a, b = map(markdown, names(record))
    return (
        f"Does the step from {a} to {b} change the verdict of this lens study? "
        f"**{verdict.capitalize()}** ({why}): that answers emerge at 75-85 % of depth is "
        f"{_both_verdicts(first)}; rank 1 is reached {_moved(record, first)}; top-1 accuracy "
        f"{_accuracy_change(made)}"
    )


def headline(record: Record, made: Mapping[str, Table]) -> str:
    """The answer for an index."""
    verdict, _ = answer(made)
    shift: Estimate = made["verdict"].row(emergence="first at rank 1")["shift_pp"]
    return (
        f"Verdict changes: **{verdict}**; first at rank 1 {numbers.estimate(shift, 'pp')} of depth "
        f"later; top-1 accuracy {_accuracy_change(made)}"
    )


def _accuracy_change(made: Mapping[str, Table]) -> str:
    return numbers.estimate(made["accuracy"].frame.iloc[0]["change_pp"], "pp")


def _both_verdicts(row: dict[str, Any]) -> str:
    a, b = (_SAID[str(row[f"{side}_verdict"])] for side in SIDES)
    return f"{a} by both" if a == b else f"{a} by the first and {b} by the second"


def _moved(record: Record, row: dict[str, Any]) -> str:
    """How far the emergence moves, and over whom."""
    moved: Estimate = row["shift_pp"]
    if moved.value is None:
        return f"at depths that cannot be compared ({moved.reason})"
    return (
        f"{numbers.estimate(moved, 'pp')} of depth later over the {moved.n} prompts that both "
        f"get right ({against_a_layer(record, moved)})"
    )


def n_layers(record: Record) -> int:
    """Of the shallower model: one of its layers is the resolution of depth."""
    return min(int(record.manifest["model"][side]["n_layers"]) for side in SIDES)


def against_a_layer(record: Record, moved: Estimate) -> str:
    """How a shift compares with the resolution of depth."""
    one = 1 / n_layers(record)
    layer = f"one layer is {numbers.number(one, 'pp').lstrip('+')}"
    if moved.low is None or moved.high is None:
        return f"{layer}; no interval"
    if max(abs(moved.low), abs(moved.high)) <= one + TINY:
        return f"{layer}: the whole interval lies within it"
    return layer


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
