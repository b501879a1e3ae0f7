"""Figures as SVG: transparent, in mid-tones that read on a white and on a dark page alike."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from lensbench.escape import printable
from lensbench.stats.bootstrap import LATE_BINDING

GREY = "#768390"
# Mid-tones after Okabe & Ito's colour-blind safe palette.
COLOURS = ("#2f81c7", "#d55e00", "#009e73", "#b8860b", "#c06a9c", "#56a0b5")
DASHES = ("-", "--", "-.", ":")
WIDTH = 9.6  # inches

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lensbench",  # the same ids in every run
    "text.parse_math": False,  # a token may contain $
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def to_svg(draw: Callable[..., Figure], *arguments: object) -> bytes:
    """Draw a figure in the house style; the same arguments give the same bytes."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The viewer's fonts show the text; that ours lack a glyph only blurs the layout.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        target = io.BytesIO()
        draw(*arguments).savefig(target, format="svg", metadata={"Date": None}, transparent=True)
    return target.getvalue()


def depth_curves(frame: pd.DataFrame) -> Figure:
    """Entropy, KL and answer probability by relative depth."""
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    panels = {
        "entropy_bits": "entropy (bits)",
        "kl_bits": "KL(model ‖ lens) (bits)",
        "answer_prob": "probability of the answer",
    }
    for i, (axis, (column, title)) in enumerate(
        zip(figure.subplots(1, 3), panels.items(), strict=True)
    ):
        ribbon(axis, frame["depth"], frame[column], COLOURS[i])
        depth_axis(axis, title)
        if column == "kl_bits":
            _scale_to_blocks(axis, frame["depth"], [e.high or e.value for e in frame[column]])
    return figure


def emergence(frame: pd.DataFrame) -> Figure:
    """Share of prompts with the answer at rank 1 by depth, facts against controls."""
    curves = {
        "answer_rank1_share": "answer at rank 1",
        "rank1_stable_share": "answer at rank 1 from here on",
        "control_rank1_share": "controls: the same answer, another subject",
    }
    return _shares(frame, curves, "share of prompts", band=True)


def category(frame: pd.DataFrame) -> Figure:
    """Share of prompts with the category, another relation's category, the answer in the top 10."""
    curves = {
        "category_top10_share": "category",
        "answer_top10_share": "answer",
        "null_category_top10_share": "another relation's category (chance)",
    }
    return _shares(frame, curves, "share of prompts, in the top 10")


def copying(frame: pd.DataFrame) -> Figure:
    """Share of prompts whose top token is one of their own tokens, beside chance."""
    curves = {"copied_share": "top token is in the prompt", "chance_share": "chance"}
    return _shares(frame, curves, "share of prompts")


def relations(frame: pd.DataFrame) -> Figure:
    """Median emergence depth per relation, with intervals and how many are answered."""
    labels = [
        f"{printable(row['relation'])} ({round((row['answered_share'].value or 0) * row['count'])}"
        f"/{row['count']})"
        for row in frame.to_dict("records")
    ]
    return _forest(frame, labels, "median depth (in brackets: answered prompts)")


def models_forest(frame: pd.DataFrame) -> Figure:
    """Median emergence depth per model, with intervals, against the claimed band."""
    return _forest(frame, [printable(name) for name in frame["model"]], "median depth")


def models_curves(frame: pd.DataFrame) -> Figure:
    """Four curves of every model on equal relative depth."""
    figure = Figure(figsize=(WIDTH, 6.4), layout=ConstrainedLayoutEngine(h_pad=0.12))
    panels = {
        "answer_rank1_share": "share with the answer at rank 1",
        "answer_prob": "probability of the answer",
        "entropy_bits": "entropy (bits)",
        "kl_bits": "KL(model ‖ lens) (bits)",
    }
    for axis, (column, title) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        stem, unit = column.rsplit("_", 1)
        for i, (model, rows) in enumerate(frame.groupby("model", sort=False)):
            low, high = rows[f"{stem}_low_{unit}"], rows[f"{stem}_high_{unit}"]
            colour = COLOURS[i % len(COLOURS)]
            axis.fill_between(rows["depth"], low, high, color=colour, alpha=0.2, linewidth=0)
            style = DASHES[i % len(DASHES)]
            axis.plot(rows["depth"], rows[column], style, color=colour, label=printable(str(model)))
        depth_axis(axis, title)
        if column == "kl_bits":
            _scale_to_blocks(axis, frame["depth"], frame["kl_high_bits"].fillna(frame["kl_bits"]))
        if unit == "share":
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 3))
    return figure


def _shares(frame: pd.DataFrame, curves: dict[str, str], title: str, band: bool = False) -> Figure:
    """Curves of shares with ribbons, in one panel with the legend above."""
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axis = figure.subplots()
    for i, (column, label) in enumerate(curves.items()):
        if any(e.value is not None for e in frame[column]):
            ribbon(axis, frame["depth"], frame[column], COLOURS[i], label, DASHES[i])
    if band:
        _band(axis)
    depth_axis(axis, "")
    axis.set_ylabel(title)
    axis.set_ylim(-0.02, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _forest(frame: pd.DataFrame, labels: list[str], title: str) -> Figure:
    """A row each: two median depths with their intervals, against the claimed band."""
    names = {"rank1_first_depth": "first at rank 1", "rank1_stable_depth": "stays at rank 1"}
    figure = Figure(figsize=(WIDTH, 1.5 + 0.42 * len(labels)), layout="constrained")
    axis = figure.subplots()
    for i, (column, name) in enumerate(names.items()):
        points = [(y, e) for y, e in enumerate(frame[column]) if e.value is not None]
        for y, e in points:
            if e.low is not None:
                axis.plot([e.low, e.high], [y + 0.3 * i - 0.15] * 2, color=COLOURS[i], alpha=0.65)
        axis.plot(
            [e.value for _, e in points],
            [y + 0.3 * i - 0.15 for y, _ in points],
            "os"[i],
            color=COLOURS[i],
            label=name,
        )
    for y, e in enumerate(frame["rank1_first_depth"]):
        if e.value is None:
            axis.text(0.02, y, f"n/a ({e.reason})", va="center", fontsize=9)
    _band(axis)
    depth_axis(axis, "")
    axis.set_xlabel(title)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _band(axis: Axes) -> None:
    """The published claim: answers emerge between these depths."""
    axis.axvspan(*LATE_BINDING, color=GREY, alpha=0.22, linewidth=0, label="claimed: 75-85 %")


def ribbon(
    axis: Axes,
    depth: pd.Series,
    points: pd.Series,
    colour: str,
    label: str | None = None,
    dashes: str = "-",
) -> None:
    """A curve of Estimates with its 95 % interval as a ribbon."""
    parts = [
        [np.nan if (v := getattr(e, part)) is None else v for e in points]
        for part in ("value", "low", "high")
    ]
    axis.fill_between(depth, parts[1], parts[2], color=colour, alpha=0.22, linewidth=0)
    axis.plot(depth, parts[0], dashes, color=colour, label=label)


def _scale_to_blocks(axis: Axes, depth: pd.Series, high: Iterable[float]) -> None:
    """Fit the panel to the blocks: the embedding's KL can be five times that of any block."""
    tallest = max((v for d, v in zip(depth, high, strict=True) if d > 0 and v == v), default=1)
    axis.set_ylim(-0.03 * tallest, 1.1 * tallest)


def depth_axis(axis: Axes, title: str) -> None:
    """Relative depth in per cent along the bottom."""
    axis.set_title(title)
    axis.set_xlim(-0.01, 1.01)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlabel("depth")
    axis.grid(True, axis="both")
