"""Figures of embeddings that no view of the kit draws: every text with every other, and planes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensbench.escape import printable
from lensbench.report.embeddings.views import MOST_TEXTS, square
from lensbench.report.kit.figures import GREY, WIDTH
from lensbench.report.kit.views import COLOURS

_NUMBERED = 12  # texts up to which cells say their number
_LONGEST = 28  # characters of a label
# Points: from a line to the next, from a text's point to its label, and of a letter.
_LINE, _ABOVE, _LETTER = 10.0, 4.0, 4.8
_PLANE = (290.0, 320.0)  # points that one of two planes is wide and tall, about


def heat_map(grid: pd.DataFrame) -> Figure:
    """Cosines of the first texts with each other, -1..1."""
    texts, cells = square(grid)
    names = [_label(text) for text in texts]
    n = len(names)
    figure = Figure(figsize=(WIDTH, 1.6 + min(0.42 * n, 7.0)), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(cells, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="none", aspect="auto")
    axis.set_xticks(range(n), names, rotation=40, ha="right", fontsize=9)
    axis.set_yticks(range(n), names, fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    for i, j in np.ndindex(n, n) if n <= _NUMBERED else ():
        if np.isfinite(cells[i, j]):
            colour = "white" if abs(cells[i, j]) > 0.6 else "#24292f"
            text = f"{cells[i, j]:.2f}"
            axis.text(j, i, text, ha="center", va="center", fontsize=8.5, color=colour)
    bar = figure.colorbar(image, ax=axis, label="cosine", aspect=30, pad=0.01)
    bar.outline.set_visible(False)
    return figure


def planes(places: pd.DataFrame, umap: bool) -> Figure:
    """The texts of the pairs among the shipped words and sentences, in one plane or two."""
    kinds = [("pca", "principal components")] + ([("umap", "UMAP")] if umap else [])
    figure = Figure(figsize=(WIDTH, 5.2 if umap else 5.8), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axis, (name, title) in zip(axes, kinds, strict=True):
        _plane(axis, places, name)
        axis.set_title(title)
    axes[0].legend(loc="upper left", markerscale=1.5)
    return figure


def _plane(axis: Axes, places: pd.DataFrame, name: str) -> None:
    own = dict(iter(places.groupby("origin", sort=False)))
    for colour, kind in ((GREY, "words"), (COLOURS[2], "sentences")):
        rows = own[kind]
        axis.scatter(
            rows[f"{name}_1"], rows[f"{name}_2"], s=7, color=colour, alpha=0.45, lw=0, label=kind
        )
    pairs = own["pair"].head(MOST_TEXTS)
    x, y = pairs[f"{name}_1"], pairs[f"{name}_2"]
    axis.scatter(x, y, s=26, color=COLOURS[1], lw=0, label="texts of the pairs")
    axis.set(xlabel=f"{name.upper()} 1", ylabel=f"{name.upper()} 2")
    axis.margins(x=0.14)
    labels = [_label(text) for text in pairs["text"]]
    for label, at, up, raised in zip(labels, x, y, _raised(axis, labels, x, y), strict=True):
        axis.annotate(
            label,
            (at, up),
            xytext=(4, raised),
            textcoords="offset points",
            fontsize=8.5,
            color=COLOURS[1],
        )


def _raised(axis: Axes, labels: Sequence[str], x: pd.Series, y: pd.Series) -> list[float]:
    """By how many points each label stands above its text's point, so that none hides another."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    wide, tall = _PLANE  # points
    at = ((x - left) / (right - left) * wide).to_numpy()
    own = ((y - low) / (high - low) * tall).to_numpy()
    up, ends = own + _ABOVE, at + _LETTER * np.array([len(label) for label in labels])
    placed: list[int] = []
    for i in np.argsort(up, kind="stable"):
        for j in sorted(placed, key=lambda j: up[j]):  # from below: once raised, never lowered
            meet = at[i] < ends[j] and at[j] < ends[i]
            if meet and abs(up[i] - up[j]) < _LINE:
                up[i] = up[j] + _LINE
        placed.append(int(i))
    return [float(one) for one in up - own]


def _label(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
