"""What the tables of lens records look like: curves by depth, and rows of median depths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from lensbench.report.kit.views import Axis, Dash, Dots, Line, Lines, by_depth
from lensbench.report.lens.headlines import EMERGENCE
from lensbench.stats.estimates import LATE_BINDING

DEPTH = Axis("depth", percent=True)
CLAIM = "claimed: 75-85 %"
MEASURES = {
    "entropy_bits": "entropy (bits)",
    "kl_bits": "KL(model ‖ lens) (bits)",
    "answer_prob": "probability of the answer",
}
EMERGED = {
    "answer_rank1_share": "answer at rank 1",
    "rank1_stable_share": "answer at rank 1 from here on",
    "control_rank1_share": "controls: the same answer, another subject",
}
CATEGORY = {
    "category_top10_share": "category",
    "answer_top10_share": "answer",
    "null_category_top10_share": "another relation's category (chance)",
}
COPIED = {"copied_share": "top token is in the prompt", "chance_share": "chance"}
_STYLES: tuple[Dash, ...] = ("solid", "dash", "dashdot", "dot")
COMPARED = {"answer_rank1_share": "share with the answer at rank 1", **MEASURES}


def depth_curves(frame: pd.DataFrame) -> list[Lines]:
    """Entropy, KL and answer probability by relative depth, a view each."""
    views = []
    for column, title in MEASURES.items():
        if column not in frame:
            continue
        lines = [Line("", list(frame[column]))]
        limits = blocks_only(lines) if column == "kl_bits" else None
        views.append(
            Lines(
                DEPTH,
                Axis(title),
                by_depth(frame),
                lines,
                title,
                limits=limits,
            )
        )
    return views


def shares(
    frame: pd.DataFrame, curves: Mapping[str, str], title: str, claim: bool = False
) -> Lines:
    """Curves of shares of prompts, in one panel."""
    lines = [
        Line(name, list(frame[column]), dash=style)
        for (column, name), style in zip(curves.items(), _STYLES, strict=False)
        if any(point.value is not None for point in frame[column])
    ]
    return Lines(
        DEPTH,
        Axis(title, percent=True),
        by_depth(frame),
        lines,
        shade=(LATE_BINDING,) if claim else (),
        shade_name=CLAIM,
        limits=(-0.02, 1.02),
    )


def medians(frame: pd.DataFrame, labels: Sequence[str], title: str) -> Dots:
    """A row each: two median depths with their intervals, against the claimed band."""
    points = zip(*(frame[f"{name}_depth"] for name in EMERGENCE), strict=True)
    rows = [Line(label, list(both)) for label, both in zip(labels, points, strict=True)]
    x = Axis(title, percent=True)
    names, span = list(EMERGENCE.values()), (-0.01, 1.01)
    return Dots(x, rows, "", names, shade=(LATE_BINDING,), shade_name=CLAIM, limits=span)


def relation_medians(frame: pd.DataFrame) -> Dots:
    """Median emergence depth per relation, and how many of its prompts are top-1 correct."""
    labels = [f"{row['relation']} ({_counted(row)})" for row in frame.to_dict("records")]
    return medians(frame, labels, "median depth (in brackets: top-1 correct prompts)")


def _counted(row: Mapping[Any, Any]) -> str:
    """How many of a relation's prompts are top-1 correct: 3/8; ?/8 where nobody looked."""
    accuracy = row["top1_accuracy"]
    correct = "?" if accuracy.value is None else round(accuracy.value * accuracy.n)
    return f"{correct}/{row['n_prompts'] if accuracy.value is None else accuracy.n}"


def side_by_side(
    frame: pd.DataFrame, by: str, columns: Mapping[str, str], claim: bool = False
) -> list[Lines]:
    """A view of each column, with a line for each model or lens, each at its own layers."""
    groups = dict(list(frame.groupby(by, sort=False)))
    views = []
    for column, title in columns.items():
        lines = [
            Line(str(name), list(rows[column]), dash=dash_of(i), places=by_depth(rows))
            for i, (name, rows) in enumerate(groups.items())
        ]
        limits = blocks_only(lines) if column == "kl_bits" else None
        y = Axis(title, percent=column.endswith("share"))
        view = Lines(DEPTH, y, {}, lines, title, limits=limits)
        shaded = replace(view, shade=(LATE_BINDING,), shade_name=CLAIM)
        views.append(shaded if claim else view)
    return views


def dash_of(i: int) -> Dash:
    """The dash of the i-th model or lens."""
    return _STYLES[i % len(_STYLES)]


def blocks_only(lines: Iterable[Line]) -> tuple[float, float]:
    """Limits that fit the blocks: the embedding's KL can be five times that of any block."""
    reached = [
        end
        for line in lines
        for point in line.points[1:]
        for end in (point.low, point.value, point.high)
        if end is not None
    ]
    low, high = min([0.0, *reached]), max([1e-4, *reached])
    return low - 0.05 * (high - low), high + 0.1 * (high - low)
