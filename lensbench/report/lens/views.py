"""What the tables of lens records look like: curves by depth, and rows of median depths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from lensbench.report.kit.views import Axis, Dots, Line, Lines, by_depth
from lensbench.report.lens.curves import GRID
from lensbench.report.lens.headlines import EMERGENCE
from lensbench.stats.bootstrap import LATE_BINDING, Estimate

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
_STYLES = ("solid", "dash", "dashdot", "dot")
_COMPARED = {"answer_rank1_share": "share with the answer at rank 1", **MEASURES}


def depth_curves(frame: pd.DataFrame) -> list[Lines]:
    """Entropy, KL and answer probability by relative depth, a view each."""
    views = []
    for column, title in MEASURES.items():
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
        Line(name, list(frame[column]), dash=style)  # type: ignore[arg-type]
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
    labels = [
        f"{row['relation']} ({round((row['top1_accuracy'].value or 0) * row['n_prompts'])}"
        f"/{row['n_prompts']})"
        for row in frame.to_dict("records")
    ]
    return medians(frame, labels, "median depth (in brackets: top-1 correct prompts)")


def models_by_depth(frame: pd.DataFrame) -> list[Lines]:
    """Four curves of every model on equal relative depth."""
    grid = {float(depth): f"depth {depth:.0%}" for depth in GRID}
    views = []
    for column, title in _COMPARED.items():
        groups = dict(list(frame.groupby("model", sort=False)))
        lines = [
            Line(str(model), _points(rows, column), dash=_STYLES[i % len(_STYLES)])  # type: ignore[arg-type]
            for i, (model, rows) in enumerate(groups.items())
        ]
        limits = blocks_only(lines) if column == "kl_bits" else None
        y = Axis(title, percent=column.endswith("share"))
        views.append(Lines(DEPTH, y, grid, lines, title, limits=limits))
    return views


def _points(rows: pd.DataFrame, column: str) -> list[Estimate]:
    stem, unit = column.rsplit("_", 1)
    ends = rows[[column, f"{stem}_low_{unit}", f"{stem}_high_{unit}"]].to_numpy(dtype=float)
    found = []
    for each in ends:
        value, low, high = (None if end != end else float(end) for end in each)
        reason = "not recorded" if value is None else None
        found.append(Estimate(value, low, high, 0, 0, reason))
    return found


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
