"""The report of a placement study: does the suggested block pay, at an equal budget?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lensbench.escape import markdown
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import COLOURS, GREY, WIDTH, to_svg
from lensbench.report.kit.tables import Table
from lensbench.report.load import SecondRecord
from lensbench.report.placement.page import placement_page
from lensbench.stats.bootstrap import Estimate, Floats, summed_bootstrap

BASE, SUGGESTED = "base", "suggested"
EVERY = "all"  # repetitions together
FEW_REPETITIONS = 5
_KEYS = ["repetition", "prompt_id"]


def tables(record: SecondRecord) -> dict[str, Table]:
    """What every placement reached, and how much better or worse the suggested block is."""
    found = [
        Table(
            "placements",
            "Held-out loss",
            placements(record),
            "Mean bits per token of the reference responses, end token included; over all "
            "repetitions. Intervals draw groups of examples. Less is better.",
        ),
        Table(
            "differences",
            "The suggested block less each other placement",
            differences(record),
            "Paired by example and repetition, bits per token: below zero the suggested block is "
            "better. Intervals draw groups of examples; what another seed of training would do is "
            "seen from repetition to repetition only.",
        ),
    ]
    return {table.name: table for table in found}


def placements(record: SecondRecord) -> pd.DataFrame:
    """One row per placement: where, at which rank, and the loss with its interval."""
    rows = record.tables["placement"]
    found = []
    for placement in dict.fromkeys(rows["placement"]):
        own = rows[rows["placement"] == placement]
        found.append(
            {
                "placement": placement,
                "blocks": "; ".join(dict.fromkeys(_ranges(blocks) for blocks in own["blocks"])),
                "rank": None if placement == BASE else int(own["rank"].iloc[0]),
                "repetitions": 1 if placement == BASE else own["repetition"].nunique(),
                "loss_bits": summed_bootstrap(_terms(own), _ratio, _groups(own)),
            }
        )
    return pd.DataFrame(found)


def differences(record: SecondRecord) -> pd.DataFrame:
    """One row per other placement, over all repetitions and for each by itself."""
    rows = record.tables["placement"]
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
            estimate = _difference(own.loc[at], other.loc[at])
            found.append({"placement": placement, "repetition": name, "difference_bits": estimate})
    return pd.DataFrame(found, columns=["placement", "repetition", "difference_bits"])


def _difference(own: pd.DataFrame, other: pd.DataFrame) -> Estimate:
    both = np.hstack([_terms(own), _terms(other)])
    return summed_bootstrap(
        both, lambda sums: _ratio(sums[..., :2]) - _ratio(sums[..., 2:]), _groups(own)
    )


def _terms(rows: pd.DataFrame) -> Floats:
    """[row, (bits, tokens)]"""
    return rows[["reference_nll_bits", "n_reference_tokens"]].to_numpy(dtype=np.float64)


def _ratio(sums: Floats) -> Floats:
    return sums[..., 0] / sums[..., 1]


def _groups(rows: pd.DataFrame) -> list[str]:
    """What is drawn together: the data's group, or an example with all its repetitions."""
    ids = rows.reset_index()["prompt_id"]
    return [
        f"example {item}" if numbers.is_missing(group) else f"group {group}"
        for item, group in zip(ids, rows["group"], strict=True)
    ]


def _ranges(blocks: Sequence[int]) -> str:
    """`12-17`, or `0-11, 18-29`."""
    parts: list[list[int]] = []
    for block in map(int, blocks):
        if parts and block == parts[-1][-1] + 1:
            parts[-1].append(block)
        else:
            parts.append([block])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


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


def headline(record: SecondRecord, made: dict[str, Table]) -> str:
    """What the suggested block is against every other placement."""
    said = [
        f"{word} {markdown(placement)} ({numbers.estimate(estimate)} bits per token)"
        for placement, word, estimate in verdicts(made["differences"])
    ]
    return f"The suggested block is {'; '.join(said)}"


def files(record: SecondRecord, made: dict[str, Table]) -> Iterator[tuple[str, bytes]]:
    """The interactive page, and the differences placement by placement."""
    if len(made["differences"].frame):
        yield "report.html", placement_page(record.model, made, record.tables["placement"])
        yield "figures/differences.svg", to_svg(differences_figure, made["differences"].frame)


def differences_figure(frame: pd.DataFrame) -> Figure:
    """A row per other placement: the difference with its interval, repetitions as small dots."""
    names = list(dict.fromkeys(frame["placement"]))
    figure = Figure(figsize=(WIDTH, 1.2 + 0.5 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=GREY, linewidth=1)
    for y, placement in enumerate(names):
        own = frame[frame["placement"] == placement]
        whole = own.loc[own["repetition"] == EVERY, "difference_bits"].iloc[0]
        each = own.loc[own["repetition"] != EVERY, "difference_bits"]
        if whole.low is not None:
            axis.plot([whole.low, whole.high], [y, y], color=COLOURS[0], alpha=0.65)
        axis.plot([whole.value], [y], "o", color=COLOURS[0])
        axis.plot([e.value for e in each], [y + 0.25] * len(each), ".", color=GREY)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel("suggested block less this placement, bits per held-out token (left: better)")
    return figure


def limitations(record: SecondRecord, made: dict[str, Table]) -> list[str]:
    """Few repetitions, few examples, one recipe."""
    rows = record.tables["placement"]
    n_repetitions = rows["repetition"].nunique()
    lines = [
        "One model, one data set, one recipe, one budget of parameters: another learning rate or "
        "rank may favour another place.",
        "The random block may share blocks with the suggested one.",
    ]
    if n_repetitions < FEW_REPETITIONS:
        lines.append(
            f"{n_repetitions} repetition(s) of each placement: the interval over examples does not "
            "cover what another seed of training would do."
        )
    return lines
