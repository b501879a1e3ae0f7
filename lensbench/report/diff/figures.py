"""Figures of a diff: both readings by depth, their changes, and milestones that shift."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from lensbench.escape import printable
from lensbench.report.kit.figures import COLOURS, DASHES, GREY, WIDTH, depth_axis, ribbon

_CURVES = {
    "answer_rank1_{}_share": "share with the answer at rank 1",
    "answer_prob_{}": "probability of the answer",
    "entropy_{}_bits": "entropy (bits)",
    "kl_{}_bits": "KL(model ‖ lens) (bits)",
}
_CHANGES = {
    "entropy_bits_change": "entropy (bits)",
    "kl_bits_change": "KL(model ‖ lens) (bits)",
    "answer_rank_log2_change": "rank of the answer (log2 ratio)",
    "answer_prob_change": "probability of the answer",
    "top1_same_share": "same top token",
    "lens_kl_bits_mean": "KL(lens a ‖ lens b) (bits)",
    "resid_change_relative": "residual: ‖b − a‖ / ‖a‖",
    "resid_cosine": "residual: cosine",
}


def curves_figure(frame: pd.DataFrame, names: tuple[str, str]) -> Figure:
    """Both sides' mean curves by relative depth."""
    figure = Figure(figsize=(WIDTH, 6.4), layout=ConstrainedLayoutEngine(h_pad=0.12))
    for axis, (column, title) in zip(figure.subplots(2, 2).flat, _CURVES.items(), strict=True):
        for i, (side, name) in enumerate(zip("ab", names, strict=True)):
            stem = column.format(side)
            stem = f"answer_{side}_prob" if column == "answer_prob_{}" else stem
            ribbon(axis, frame["depth"], frame[stem], COLOURS[i], printable(name), DASHES[i])
        depth_axis(axis, title)
        if column.endswith("share"):
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def changes_figure(frame: pd.DataFrame, tested: Mapping[str, str], level: float) -> Figure:
    """Every change by relative depth; dots where it is more than chance, all layers considered."""
    norms = [column for column in frame if str(column).endswith("_update_norm")]
    rows = (len(_CHANGES) + bool(norms) + 2) // 3
    figure = Figure(figsize=(WIDTH, 2.9 * rows), layout=ConstrainedLayoutEngine(h_pad=0.12))
    axes = list(figure.subplots(rows, 3).flat)
    for axis, (column, title) in zip(axes, _CHANGES.items(), strict=False):
        _change(axis, frame, column)
        if column in tested:
            axis.axhline(0, color=GREY, linewidth=0.8)
            _dots(axis, frame, column, level)
        if column == "top1_same_share":
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        depth_axis(axis, title)
    rest = axes[len(_CHANGES) :]
    if norms:
        axis = rest.pop(0)
        for i, name in enumerate(norms):
            axis.plot(frame["depth"], frame[name].astype(float), ".-", color=COLOURS[i])
        depth_axis(axis, "norm of the adapter's update")
    for axis in rest:
        axis.axis("off")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def _change(axis: Axes, frame: pd.DataFrame, column: str) -> None:
    """One curve with its ribbon, or why there is none."""
    points = frame[column]
    if all(point.value is None for point in points):
        axis.text(0.5, 0.5, "n/a", ha="center", va="center", transform=axis.transAxes)
        return
    ribbon(axis, frame["depth"], points, COLOURS[0], "mean change, b minus a, 95 % interval")


def _dots(axis: Axes, frame: pd.DataFrame, column: str, level: float) -> None:
    found = frame[frame[f"{column}_p"].astype(float) < level]
    values = [point.value for point in found[column]]
    label = f"adjusted p < {level:g}"
    axis.plot(found["depth"], values, "o", color=COLOURS[1], markersize=4, label=label)


def milestones_figure(frame: pd.DataFrame, n_layers: int) -> Figure:
    """Median shift of every milestone with its interval; the grey band is one layer each way."""
    figure = Figure(figsize=(WIDTH, 1.4 + 0.42 * len(frame)), layout="constrained")
    axis = figure.subplots()
    label = "less than one layer"
    axis.axvspan(-1 / n_layers, 1 / n_layers, color=GREY, alpha=0.22, linewidth=0, label=label)
    axis.axvline(0, color=GREY, linewidth=0.8)
    for y, (moved, count) in enumerate(zip(frame["shift_points"], frame["count"], strict=True)):
        if moved.value is None:
            axis.text(0, y, f"n/a ({moved.reason})", va="center", fontsize=9)
            continue
        if moved.low is not None:
            axis.plot([moved.low, moved.high], [y, y], color=COLOURS[0], alpha=0.65)
        axis.plot([moved.value], [y], "o", color=COLOURS[0])
        axis.annotate(f" {count}", (moved.value, y - 0.12), fontsize=9, color=GREY)
    axis.set_yticks(range(len(frame)), [str(name).replace("_", " ") for name in frame["milestone"]])
    axis.set_ylim(len(frame) - 0.5, -0.5)
    ends = [end for m in frame["shift_points"] for end in (m.low, m.value, m.high) if end]
    reach = max([1.5 / n_layers, *map(abs, ends)])
    axis.set_xlim(-1.25 * reach, 1.25 * reach)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    axis.set_xlabel("shift in points of depth: b minus a, positive is later (small: prompts)")
    axis.grid(True, axis="x")
    figure.legend(loc="outside upper center")
    return figure
