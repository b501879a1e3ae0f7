"""Accuracy against how much is trained: what is only prompted beside it, on an axis of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter, PercentFormatter

from lensbench.escape import printable
from lensbench.report.kit.figures import GREY, WIDTH
from lensbench.report.kit.views import COLOURS
from lensbench.stats.estimates import Estimate

_TRAINED = 5  # of its panel, the width in methods


def against_trained(rows: pd.DataFrame, chance: float | None) -> Figure:
    """A dot a method, its interval over examples; columns `name`, `accuracy`, `n_trainable`.

    `chance`: the accuracy of the most frequent label.
    """
    trained = rows["n_trainable"].fillna(0) > 0
    untrained, learnt = rows[~trained], rows[trained]
    parts = [own for own in (untrained, learnt) if len(own)]
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    widths = [_TRAINED if own is learnt else max(len(own), 2) for own in parts]
    axes = figure.subplots(1, len(parts), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axis, own in zip(axes, parts, strict=True):
        if own is untrained:
            _plain(axis, own)
        else:
            _logarithmic(axis, own)
        if chance is not None:
            axis.axhline(chance, color=GREY, linewidth=1, linestyle=":")
        axis.grid(True, axis="y")
    axes[0].set_ylabel("accuracy on tested texts")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def _plain(axis: Axes, rows: pd.DataFrame) -> None:
    places = list(range(len(rows)))
    _dots(axis, places, rows["accuracy"].tolist(), COLOURS[1])
    names = ["\n".join(printable(name).rsplit(", ", 1)) for name in rows["name"]]
    axis.set_xticks(places, names, fontsize=8.5, rotation=35, ha="right")
    axis.set_xlim(-0.6, len(rows) - 0.4)
    axis.set_title("nothing is trained")


def _logarithmic(axis: Axes, rows: pd.DataFrame) -> None:
    places = rows["n_trainable"].tolist()
    _dots(axis, places, rows["accuracy"].tolist(), COLOURS[0])
    for name, x, one in zip(rows["name"], places, rows["accuracy"], strict=True):
        beside: Any = {"xytext": (7, 4), "textcoords": "offset points", "fontsize": 9}
        axis.annotate(printable(name).partition(",")[0], (x, one.value), **beside)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 1k, 1M: no maths markup
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.margins(x=0.25)
    axis.set_xlabel("trained parameters")
    axis.set_title("trained")


def _dots(axis: Axes, places: Sequence[float], points: Sequence[Estimate], colour: str) -> None:
    for x, one in zip(places, points, strict=True):
        if one.low is not None and one.high is not None:
            axis.plot([x, x], [one.low, one.high], color=colour, alpha=0.65)
    axis.plot(
        places, [np.nan if one.value is None else one.value for one in points], "o", color=colour
    )
