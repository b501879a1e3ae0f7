"""Figures of a correlation study: curves, rankings, layer x layer maps."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from lensbench.escape import printable
from lensbench.records.schema.correlation import SIMILARITY_MEASURES, VARIANTS
from lensbench.report.kit.figures import COLOURS, DASHES, GREY, WIDTH, ribbon, to_svg
from lensbench.report.kit.tables import Table
from lensbench.stats.bootstrap import LEVEL, Estimate

MAIN = "without_massive"
RANKS_BY = ("cosine", "pearson")  # the second between different prompts, which have no cosines
VARIED = ("pearson", "cosine", "rsa")  # measures that the variants can change
_MOST_TICKS = 8


def correlation_figures(made: dict[str, Table]) -> Iterator[tuple[str, bytes]]:
    """Name and content of every figure, span by span."""
    for span in dict.fromkeys(made["similarity"].frame["span"]):
        own = {
            name: table.frame[table.frame["span"] == span]
            for name, table in made.items()
            if "span" in table.frame
        }
        yield f"figures/ranking_{span}.svg", to_svg(ranking, own["ranking"], own["choice"])
        yield f"figures/measures_{span}.svg", to_svg(measures, own["similarity"])
        yield f"figures/variants_{span}.svg", to_svg(variants, own["similarity"])
        if len(own["maps"]):
            yield f"figures/maps_{span}.svg", to_svg(maps, own["maps"])


def ranking(frame: pd.DataFrame, choice: pd.DataFrame) -> Figure:
    """Each condition's change by layer, above each control, by the measure that ranks."""
    measure = ranking_measure(frame) or RANKS_BY[0]
    frame, choice = main_rows(frame), main_rows(choice)
    conditions = list(dict.fromkeys(frame["condition"]))
    n = max(len(conditions), 1)
    figure = Figure(figsize=(WIDTH, 0.8 + 2.7 * n), layout="constrained")
    for axis, condition in zip(figure.subplots(n, 1, squeeze=False).flat, conditions, strict=False):
        own = frame[frame["condition"] == condition]
        for i, (control, rows) in enumerate(own.groupby("control", sort=False, dropna=False)):
            label = (
                f"above {printable(control)}" if isinstance(control, str) else "from the reference"
            )
            colour = COLOURS[i % len(COLOURS)]
            ribbon(axis, rows["layer"], rows["change"], colour, label, DASHES[i % len(DASHES)])
            firm = rows[rows["p_adjusted"] < LEVEL]
            axis.plot(firm["layer"], [e.value for e in firm["change"]], "o", ms=4, color=colour)
        axis.axhline(0, color=GREY, linewidth=1)
        _shade(axis, choice[choice["condition"] == condition])
        _layer_axis(axis, printable(condition))
        axis.set_ylabel(f"change of {measure}")
        axis.legend(loc="best")
    return figure


def ranking_measure(frame: pd.DataFrame) -> str | None:
    """The measure by which layers are ranked: the first of `RANKS_BY` that was measured."""
    return next((name for name in RANKS_BY if (frame["measure"] == name).any()), None)


def main_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows by which layers are ranked."""
    return frame[(frame["measure"] == ranking_measure(frame)) & (frame["variant"] == MAIN)]


def _shade(axis: Axes, choice: pd.DataFrame) -> None:
    """The outputs of the chosen blocks."""
    for row in choice.dropna(subset=["first_block"]).to_dict("records"):
        first, last = row["first_block"] + 1, row["last_block"] + 1
        axis.axvspan(first - 0.5, last + 0.5, color=GREY, alpha=0.22, linewidth=0)


def measures(frame: pd.DataFrame) -> Figure:
    """Every measure by layer, a curve for each condition and control."""
    frame = frame[frame["variant"] == MAIN]
    names = [name for name in SIMILARITY_MEASURES if (frame["measure"] == name).any()]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        _conditions(axis, frame[frame["measure"] == name])
        _layer_axis(axis, _short(SIMILARITY_MEASURES[name]))
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    _legend(figure, axes.flat[0])
    return figure


def variants(frame: pd.DataFrame) -> Figure:
    """The measures that variants can change: one row for each variant."""
    names = [name for name in VARIED if (frame["measure"] == name).any()] or list(VARIED)[:1]
    figure = Figure(figsize=(WIDTH, 0.6 + 2.4 * len(VARIANTS)), layout="constrained")
    axes = figure.subplots(len(VARIANTS), len(names), squeeze=False)
    for row, (variant, title) in enumerate(VARIANTS.items()):
        for axis, name in zip(axes[row], names, strict=True):
            own = frame[(frame["variant"] == variant) & (frame["measure"] == name)]
            _conditions(axis, own)
            _layer_axis(axis, f"{name}, {_short(title)}")
    _legend(figure, axes[0, 0])
    return figure


def _conditions(axis: Axes, frame: pd.DataFrame) -> None:
    """A ribbon for each condition; controls are dotted."""
    for i, (condition, rows) in enumerate(frame.groupby("condition", sort=False)):
        dashes = ":" if (rows["role"] == "control").all() else "-"
        label = f"{printable(str(condition))} ({rows['role'].iloc[0]})"
        ribbon(axis, rows["layer"], rows["value"], COLOURS[i % len(COLOURS)], label, dashes)
    if not any(_known(e) for e in frame["value"]):
        reasons = [e.reason for e in frame["value"] if e.reason]
        text = "n/a\n" + "\n".join(textwrap.wrap(reasons[0], 30)) if reasons else "n/a"
        axis.set_xlim(0, frame["layer"].max() if len(frame) else 1)
        axis.set_yticks([])
        axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes, fontsize=9)


def _known(estimate: Estimate) -> bool:
    return estimate.value is not None


def _short(title: str) -> str:
    return title.split(" over all")[0].split(", mean over")[0]


def _layer_axis(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("layer")
    axis.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS, integer=True))
    axis.grid(True)


def _legend(figure: Figure, axis: Axes) -> None:
    handles, names = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 3))


def maps(frame: pd.DataFrame) -> Figure:
    """Layer x layer in each condition, and below it the difference to the reference."""
    conditions = list(dict.fromkeys(frame["condition"]))
    names = list(dict.fromkeys(frame["measure"]))
    shape = (2 * len(names), len(conditions))
    size = WIDTH, 1.0 + 2.3 * shape[0] * min(1.0, 4 / max(len(conditions), 1))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(*shape, squeeze=False)
    for i, name in enumerate(names):
        own = frame[frame["measure"] == name]
        grids = {c: layer_grid(own[own["condition"] == c]) for c in conditions}
        _map_row(figure, axes[2 * i], grids, name)
        _difference_row(figure, axes[2 * i + 1], grids, name)
    return figure


def layer_grid(rows: pd.DataFrame) -> np.ndarray:
    """The pairs as a square, both ways round."""
    n = int(rows["layer_b"].max()) + 1
    grid = np.full((n, n), np.nan)
    grid[rows["layer_a"], rows["layer_b"]] = rows["value"]
    grid[rows["layer_b"], rows["layer_a"]] = rows["value"]
    return grid


def _map_row(figure: Figure, axes: Sequence[Axes], grids: dict[str, np.ndarray], name: str) -> None:
    known = np.concatenate([grid[np.isfinite(grid)] for grid in grids.values()])
    low = float(known.min()) if len(known) else 0.0
    norm = Normalize(min(low, 0.99), 1.0)
    for axis, (condition, grid) in zip(axes, grids.items(), strict=True):
        mesh = _draw(axis, grid, "viridis", norm, f"{printable(condition)}: {name}")
    figure.colorbar(mesh, ax=list(axes), aspect=18, pad=0.01).outline.set_visible(False)


def _difference_row(
    figure: Figure, axes: Sequence[Axes], grids: dict[str, np.ndarray], name: str
) -> None:
    """Each condition's map minus the reference's; the reference's own place stays empty."""
    reference, *others = grids
    axes[0].set_visible(False)
    differences = {c: grids[c] - grids[reference] for c in others}
    known = [np.nanmax(np.abs(d)) for d in differences.values() if np.isfinite(d).any()]
    most = max([*known, 1e-9])
    mesh = None
    for axis, (condition, grid) in zip(axes[1:], differences.items(), strict=True):
        title = f"{printable(condition)} − {printable(reference)}"
        mesh = _draw(axis, grid, "RdBu_r", TwoSlopeNorm(0.0, -most, most), title)
    if mesh is not None:
        figure.colorbar(mesh, ax=list(axes), aspect=18, pad=0.01).outline.set_visible(False)


def _draw(axis: Axes, grid: np.ndarray, colours: str, norm: Normalize, title: str) -> AxesImage:
    image = axis.imshow(grid, cmap=colours, norm=norm, origin="lower", interpolation="none")
    axis.set_title(title, fontsize=9)
    axis.set(xlabel="layer", ylabel="layer")
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.spines[:].set_visible(False)
    return image
