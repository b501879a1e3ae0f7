"""The report of a placement study: does the suggested block pay, at an equal budget?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.report.kit import numbers
from lensbench.report.kit.examples import drawn_together, example_picker
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import WHOLE, Page, Picker, chart
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Axis, Dots, Line, of_values
from lensbench.report.section import Section, written
from lensbench.spec import ranges
from lensbench.stats.estimates import Estimate, summed_difference, summed_estimate
from lensbench.stats.intervals import ratio
from lensbench.stats.resampling import Floats

BASE, SUGGESTED = "base", "suggested"
EVERY = "all"  # repetitions together
_KEYS = ["repetition", "prompt_id"]
_SUMMED = ("reference_nll_bits", "n_reference_tokens")
_LOSS = Axis("bits per held-out token (left: better)")
_LEAD = Axis("suggested block less this placement, bits per held-out token (left: better)")


def placement(record: Record, name: str) -> Section:
    """The report of one study."""
    rows = record.table("placement")
    made = tables(rows)
    found = verdicts(made["differences"])
    compared = len(found) > 0
    text, limitations = written(
        "placement",
        tables=made,
        model=record.manifest["model"],
        settings=record.manifest["settings"],
        verdicts=[(other, word, numbers.estimate(e, "bits")) for other, word, e in found],
        n_repetitions=rows["repetition"].nunique(),
    )
    return Section(
        title=f"{name}: where to put an adapter",
        tables=made,
        text=text,
        headline=headline(made),
        limitations=limitations,
        figures={"differences": partial(to_svg, panels, [leads(made)])} if compared else {},
        page=partial(placement_page, name, made, rows) if compared else None,
    )


def tables(rows: pd.DataFrame) -> dict[str, Table]:
    """What every placement reached, and how much better or worse the suggested block is."""
    return catalogue(
        {
            "placements": ("Held-out loss", placements(rows)),
            "differences": (
                "The suggested block less each other placement",
                differences(rows),
            ),
        }
    )


def placements(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per placement: which blocks, at which rank, and the loss with its interval."""
    found = []
    for placement in dict.fromkeys(rows["placement"]):
        own = rows[rows["placement"] == placement]
        found.append(
            {
                "placement": placement,
                "blocks": "; ".join(
                    dict.fromkeys(ranges(blocks, ", ") for blocks in own["blocks"])
                ),
                "rank": None if placement == BASE else int(own["rank"].iloc[0]),
                "repetitions": 1 if placement == BASE else own["repetition"].nunique(),
                "loss_bits": summed_estimate(_terms(own), ratio, drawn_together(own)),
            }
        )
    return pd.DataFrame(found)


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per other placement, over all repetitions and for each by itself."""
    own = rows[rows["placement"] == SUGGESTED].set_index(_KEYS)
    found = []
    for placement in dict.fromkeys(rows["placement"]):
        if placement in (BASE, SUGGESTED):
            continue
        other = rows[rows["placement"] == placement].set_index(_KEYS)
        shared = own.index.intersection(other.index)
        repetitions = [EVERY, *sorted(set(shared.get_level_values("repetition")))]
        for repetition in repetitions:
            at = shared
            if repetition != EVERY:
                at = shared[shared.get_level_values("repetition") == repetition]
            name = EVERY if repetition == EVERY else f"{int(repetition) + 1}"
            mine, theirs = own.loc[at], other.loc[at]
            estimate = summed_difference(
                _terms(mine), _terms(theirs), ratio, drawn_together(mine.reset_index())
            )
            found.append({"placement": placement, "repetition": name, "difference_bits": estimate})
    return pd.DataFrame(found, columns=["placement", "repetition", "difference_bits"])


def _terms(rows: pd.DataFrame) -> Floats:
    """[row, (bits, tokens)]"""
    return rows[list(_SUMMED)].to_numpy(dtype=np.float64)


def verdicts(table: Table) -> list[tuple[str, str, Estimate]]:
    """Per other placement: whether the suggested block is better, worse, or it cannot be told.

    It can be told where the whole interval lies on one side of zero and so does every repetition.
    """
    found = []
    for placement, own in table.frame.groupby("placement", sort=False):
        estimate = own.loc[own["repetition"] == EVERY, "difference_bits"].iloc[0]
        each = [e.value for e in own.loc[own["repetition"] != EVERY, "difference_bits"]]
        told = estimate.low is not None and not estimate.low <= 0 <= estimate.high
        agree = all(np.sign(value) == np.sign(estimate.value) for value in each)
        side = "better than" if estimate.value < 0 else "worse than"
        found.append((str(placement), side if told and agree else "cannot be told from", estimate))
    return found


def headline(made: Mapping[str, Table]) -> str:
    """What the suggested block is against every other placement."""
    said = [
        f"{word} {markdown(other)} ({numbers.estimate(estimate, 'bits')} bits per token)"
        for other, word, estimate in verdicts(made["differences"])
    ]
    return f"The suggested block is {'; '.join(said)}" if said else ""


def leads(made: Mapping[str, Table]) -> Dots:
    """A row per other placement: the difference with its interval, each repetition a small dot."""
    rows = []
    for placement, own in made["differences"].frame.groupby("placement", sort=False):
        whole = own.loc[own["repetition"] == EVERY, "difference_bits"].iloc[0]
        each = own.loc[own["repetition"] != EVERY, "difference_bits"]
        rows.append(Line(str(placement), [whole], small=[e.value for e in each]))
    return Dots(_LEAD, rows, small=_repetitions(max(len(row.small) for row in rows)), zero=True)


def _repetitions(n: int) -> list[str]:
    return [f"repetition {number + 1}" for number in range(n)]


def placement_page(model: str, made: Mapping[str, Table], rows: pd.DataFrame) -> Page:
    """Every placement's loss, over all examples or on one, and the suggested block's lead."""
    prompts = list(dict.fromkeys(rows["prompt_id"]))
    examples = example_picker(rows, {item: item for item in prompts})
    frame = made["differences"].frame
    other = Picker("Other placement", {name: name for name in dict.fromkeys(frame["placement"])})
    charts = [
        chart(
            "Held-out loss",
            "All repetitions, over all examples with a 95 % interval over groups of them; grey: "
            "each repetition.",
            (examples,),
            lambda item: losses(made["placements"].frame, rows, item),
        ),
        chart(
            "The suggested block less the other placement",
            "Paired by example and repetition; below zero the suggested block is better.",
            (other,),
            lambda name: _lead(frame[frame["placement"] == name]),
        ),
    ]
    sentence = (
        "Adapters of equally many parameters in different blocks, measured on the same held-out "
        "examples."
    )
    return Page(f"{model}: where to put an adapter", sentence, (examples, other), charts)


def _lead(differences: pd.DataFrame) -> Dots:
    """A row for all repetitions together and one for each."""
    pairs = zip(differences["repetition"], differences["difference_bits"], strict=True)
    rows = [
        Line("all repetitions" if name == EVERY else f"repetition {name}", [estimate])
        for name, estimate in pairs
    ]
    return Dots(
        Axis("bits per held-out token (left: the suggested block is better)"), rows, zero=True
    )


def losses(placements: pd.DataFrame, rows: pd.DataFrame, item: str = WHOLE) -> Dots:
    """A row for each placement: its loss over all examples, or on one of them."""
    numbered = sorted(set(rows["repetition"].dropna().astype(int)))
    rows = rows[rows["prompt_id"] == item] if item else rows
    lines = []
    for placement, loss in zip(placements["placement"], placements["loss_bits"], strict=True):
        own = rows[rows["placement"] == placement]
        each = own.groupby("repetition")[list(_SUMMED)].sum()
        small = (each[_SUMMED[0]] / each[_SUMMED[1]]).reindex(numbered)
        sums = own[list(_SUMMED)].sum()
        point = of_values([sums[_SUMMED[0]] / sums[_SUMMED[1]]])[0] if item else loss
        shown = [None if numbers.is_missing(value) else float(value) for value in small]
        lines.append(Line(str(placement), [point], small=shown))
    return Dots(_LOSS, lines, small=_repetitions(len(numbered)))
