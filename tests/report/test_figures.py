"""Figures that can be read: no two labels on each other, nothing on a line."""

from __future__ import annotations

from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lensbench.report.embeddings.figures import planes
from lensbench.report.kit.figures import panels
from lensbench.report.kit.views import Axis, Dots, Line, Map
from lensbench.stats.estimates import Estimate


def dots(*ends: tuple[float, float]) -> Dots:
    """A row for each interval, and one that could not be measured."""
    rows = [Line(f"row {i}", [Estimate(sum(e) / 2, *e, 9, 9)]) for i, e in enumerate(ends)]
    missing = Line("last", [Estimate(None, None, None, 0, 0, "not asked")])
    return Dots(Axis("difference"), [*rows, missing], "title", zero=True)


def laid_out(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("scale", [0.0009, 0.09, 0.9, 90, 12345])
def test_numbers_under_a_row_of_dots_do_not_touch(scale: float, columns: int) -> None:
    view = dots((-scale, -0.1 * scale), (-0.8 * scale, 0.3 * scale))
    with mpl.rc_context({"font.size": 11}):
        figure = laid_out(panels([view] * 3, columns))
    for axis in figure.axes:
        low, high = axis.get_xlim()
        shown = [t for t in axis.get_xticklabels() if low <= t.get_position()[0] <= high]
        boxes = [label.get_window_extent() for label in shown]
        assert len(boxes) >= 2
        assert all(right.x0 > left.x1 for left, right in pairwise(boxes))


def test_a_reason_stands_beside_the_line_at_zero() -> None:
    (axis,) = laid_out(panels([dots((-1, 1))])).axes
    (reason,) = axis.texts
    zero = axis.transData.transform((0, 0))[0]
    assert reason.get_window_extent().x0 > zero + 2


@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_dots_of_a_row_stand_nearer_to_it_than_to_the_next(n: int) -> None:
    rows = [Line(f"row {i}", [Estimate(1.0, 0.5, 1.5, 9, 9)] * n) for i in range(3)]
    view = Dots(Axis("ratio"), rows, "title", series=[f"s{i}" for i in range(n)])
    (axis,) = laid_out(panels([view])).axes
    at = [float(y) for line in axis.lines if line.get_marker() in "os^v" for y in line.get_ydata()]
    assert len(at) == 3 * n
    off = sorted(abs(y - round(y)) for y in at)
    assert off[-1] < 0.35  # the next row begins at 1 - 0.35
    assert [sum(round(y) == row for y in at) for row in range(3)] == [n, n, n]


@pytest.mark.parametrize("umap", [True, False])
def test_labels_in_a_plane_do_not_lie_on_each_other(umap: bool) -> None:
    texts = ["dog", "puppy", "car", "It's a beautiful sunny day", "The weather is nice today", "x"]
    x = [0.10, 0.11, 0.12, 0.10, 0.09, 0.9]
    rows = [
        ("pair", text, at, 0.001 * i) for i, (text, at) in enumerate(zip(texts, x, strict=True))
    ]
    rows += [(kind, "", a, b) for kind in ("words", "sentences") for a, b in ((0, 0), (1, 1))]
    places = pd.DataFrame(rows, columns=["origin", "text", "pca_1", "pca_2"])
    places[["umap_1", "umap_2"]] = places[["pca_1", "pca_2"]] * [1, -1]
    figure = laid_out(planes(places, umap))
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts]
        assert len(boxes) == len(texts)
        assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize("columns", [1, 3, 5])
def test_maps_fill_their_rows(columns: int) -> None:
    """A map is a square: in a row that is higher than a column is wide it would float."""
    view = Map(Axis("layer"), Axis("layer"), np.eye(4), (0, 1), "title")
    figure = laid_out(panels([view] * 2 * columns, columns))
    upper, lower = figure.axes[0], figure.axes[columns]
    gap = upper.get_window_extent().y0 - lower.get_window_extent().y1
    assert 0 < gap < 0.8 * figure.dpi  # room for a title and the numbers
    assert upper.get_xlabel() == ""
    assert lower.get_xlabel() == "layer"
