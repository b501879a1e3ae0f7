"""The interactive page of a placement study: each placement's loss, the suggested block's lead."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lensbench.report.kit.numbers import is_missing
from lensbench.report.kit.picker_page import Axis, Line, Picker, View, chart, dots_view, picker_page
from lensbench.report.kit.tables import Table

_LOSS = Axis("bits per held-out token (left: better)")
_DIFFERENCE = Axis("bits per held-out token (left: the suggested block is better)")


def placement_page(model: str, made: Mapping[str, Table], rows: pd.DataFrame) -> bytes:
    """`report.html`; `rows`: the record's table, for each repetition's own loss."""
    placements, differences = made["placements"].frame, made["differences"].frame
    other = Picker(
        "Other placement", {name: name for name in dict.fromkeys(differences["placement"])}
    )
    charts = [
        chart(
            "Held-out loss",
            "All repetitions with a 95 % interval over groups of examples; grey: each repetition.",
            (),
            lambda: _losses(placements, rows),
        ),
        chart(
            "The suggested block less the other placement",
            "Paired by example and repetition; below zero the suggested block is better.",
            (other,),
            lambda placement: _lead(differences[differences["placement"] == placement]),
        ),
    ]
    sentence = (
        "Adapters of equally many parameters in different blocks, measured on the same held-out "
        "examples. Pick which placement to set the suggested block against; hover for the numbers."
    )
    return picker_page(f"{model}: where to put an adapter", sentence, (other,), charts)


def _losses(placements: pd.DataFrame, rows: pd.DataFrame) -> View:
    """A row for each placement."""
    numbers = sorted(set(rows["repetition"].dropna().astype(int)))
    lines = []
    for placement, loss in zip(placements["placement"], placements["loss_bits"], strict=True):
        own = rows[rows["placement"] == placement].groupby("repetition")
        sums = own[["reference_nll_bits", "n_reference_tokens"]].sum()
        each = (sums["reference_nll_bits"] / sums["n_reference_tokens"]).reindex(numbers)
        small = [None if is_missing(value) else float(value) for value in each]
        lines.append(Line(str(placement), [loss], small=small))
    return dots_view(_LOSS, lines, [f"repetition {number + 1}" for number in numbers])


def _lead(differences: pd.DataFrame) -> View:
    """A row for all repetitions together and one for each."""
    pairs = zip(differences["repetition"], differences["difference_bits"], strict=True)
    lines = [
        Line("all repetitions" if name == "all" else f"repetition {name}", [estimate])
        for name, estimate in pairs
    ]
    return dots_view(_DIFFERENCE, lines, zero=True)
