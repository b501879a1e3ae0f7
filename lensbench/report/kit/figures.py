"""Views as SVG: transparent, in mid-tones that read on a white and on a dark page alike."""

from __future__ import annotations

import io
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatter, MaxNLocator, PercentFormatter

from lensbench.escape import printable, visible
from lensbench.report.kit.views import (
    COLOURS,
    Axis,
    Dots,
    Line,
    Lines,
    Map,
    Nothing,
    Tokens,
    nothing_measured,
)
from lensbench.stats.estimates import LEVEL

GREY = "#768390"
DASHES = {"solid": "-", "dash": "--", "dashdot": "-.", "dot": ":"}
WIDTH = 9.6  # inches
MOST_POSITIONS = 12  # of a token map: the last ones
TOKEN_WIDTH = 11  # columns
_LINES, _ALONE, _MAP = 2.7, 3.3, 2.5  # inches of a row: of curves, of one view of them, of maps

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lensbench",  # the same ids in every run
    "text.parse_math": False,  # a token may contain $
    "axes.formatter.use_mathtext": False,
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

Drawn = Lines | Dots | Map | Nothing


def to_svg(draw: Callable[..., Figure], *arguments: object) -> bytes:
    """Draw a figure in the house style; the same arguments give the same bytes."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The viewer's fonts show the text; that ours lack a glyph only blurs the layout.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        target, figure = io.BytesIO(), draw(*arguments)
        _settle(figure)
        figure.savefig(target, format="svg", metadata={"Date": None}, transparent=True)
    return target.getvalue()


def _settle(figure: Figure) -> None:
    """Lay the figure out, and round it: the solver's last bits follow addresses in memory.

    By the engine itself, and then without one, so that a figure is drawn once and not three times.
    """
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine(None)
    for axis in figure.axes:
        x, y, width, height = axis.get_position(original=True).bounds
        axis.set_position((round(x, 6), round(y, 6), round(width, 6), round(height, 6)))


def panels(views: Sequence[Drawn], columns: int = 3) -> Figure:
    """The views in a grid, row by row, with one legend above."""
    columns = min(columns, len(views))
    rows = -(-len(views) // columns)
    by_row = [views[i * columns : (i + 1) * columns] for i in range(rows)]
    heights = [max(_height(view, columns) for view in row) for row in by_row]
    if len(views) == 1 and isinstance(views[0], Lines):
        heights = [_ALONE]
    above = 0.5 + 0.22 * max(_legend_rows(views) - 2, 0)
    figure = Figure(
        figsize=(WIDTH, above + sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.08)
    )
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for i, (axis, view) in enumerate(zip(axes.flat, views, strict=False)):
        below = views[i + columns] if i + columns < len(views) else None
        _draw(axis, view)
        if not isinstance(view, Nothing) and isinstance(below, type(view)) and below.x == view.x:
            axis.set_xlabel("")  # the panel below says it
    for axis in axes.flat[len(views) :]:
        axis.set_axis_off()
    for i in range(rows):
        _share_row(figure, axes[i], by_row[i])
    _legend(figure)
    return figure


def _height(view: Drawn, columns: int) -> float:
    """Inches that a view takes in a row of so many: a map is no higher than it is wide."""
    if isinstance(view, Dots):
        return 0.75 + 0.36 * len(view.lines)
    if isinstance(view, Map):
        return min(_MAP, WIDTH / columns)
    return _LINES if isinstance(view, Lines) else 0


def _draw(axis: Axes, view: Drawn) -> None:
    if isinstance(view, Nothing):
        axis.set_axis_off()
    elif isinstance(view, Map):
        _map(axis, view)
    elif isinstance(view, Dots):
        _dots(axis, view)
    else:
        _lines(axis, view)


def _share_row(figure: Figure, axes: Sequence[Axes], views: Sequence[Drawn]) -> None:
    """What the panels of a row have in common: the names of their dots, the colours of maps."""
    named = [view for view in views if isinstance(view, Dots)]
    if len({tuple(row.name for row in view.lines) for view in named}) == 1:
        for axis in axes[1 : len(named)]:
            axis.tick_params(labelleft=False)
    images = [image for axis in axes for image in axis.get_images()]
    if images:
        figure.colorbar(images[0], ax=list(axes), aspect=18, pad=0.01).outline.set_visible(False)


def _legend_columns(names: Iterable[str]) -> int:
    return 2 if max(map(len, names)) > 40 else 3


def _legend_rows(views: Sequence[Drawn]) -> int:
    """Rows of the legend that many curves need."""
    names = {line.name for view in views if isinstance(view, Lines) for line in view.lines} - {""}
    return -(-len(names) // _legend_columns(names)) if names else 0


def _legend(figure: Figure) -> None:
    """The names in all panels, each once."""
    found: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    if found:
        columns = _legend_columns(found)
        figure.legend(
            list(found.values()),
            list(found),
            loc="outside upper center",
            ncols=min(len(found), columns),
        )


def _lines(axis: Axes, view: Lines) -> None:
    _titled(axis, view.title, view.x, view.y)
    axis.set_xlim(*_span(view))
    if nothing_measured(view.lines):
        axis.set_yticks([])
        _say(axis, view.note or "n/a")
        return
    _shade(axis, view)
    for i, line in enumerate(view.lines):
        _curve(axis, line, list(line.places or view.places), COLOURS[i % len(COLOURS)])
    if view.zero:
        axis.axhline(0, color=GREY, linewidth=0.8)
    if view.limits:
        axis.set_ylim(*view.limits)
    axis.grid(True)


def _span(view: Lines) -> tuple[float, float]:
    """The ends of the axis: all places, with a little air."""
    places = [place for line in view.lines for place in line.places or view.places]
    low, high = min(places, default=0), max(places, default=1)
    return low - 0.01 * (high - low or 1), high + 0.01 * (high - low or 1)


def _titled(axis: Axes, title: str, x: Axis, y: Axis) -> None:
    """Title and axes; a title that says what y is stands for its name."""
    axis.set_title(printable(title), fontsize=9.5 if len(title) > 34 else 10.5)
    axis.set_xlabel(x.title)
    if y.title != title:
        axis.set_ylabel(y.title)
    for one, which in ((x, axis.xaxis), (y, axis.yaxis)):
        if one.percent:
            which.set_major_formatter(PercentFormatter(1, decimals=0))
    if not x.percent:
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if y.log:
        axis.set_yscale("log")
        for place in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            place(LogFormatter(minor_thresholds=(2, 0.5)))  # plain numbers, no maths markup


def _curve(axis: Axes, line: Line, x: Sequence[float], colour: str) -> None:
    """A curve with its 95 % interval as a ribbon; dots where it is more than chance."""
    value, low, high = (
        [_as_written(getattr(e, part)) for e in line.points] for part in ("value", "low", "high")
    )
    axis.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0)
    marker = "o" if len(_runs(value)) == len([v for v in value if v == v]) else None
    label = printable(line.name) or None
    style = DASHES[line.dash]
    axis.plot(x, value, style, color=colour, label=label, marker=marker, markersize=4)
    firm = [k for k, p in enumerate(line.p) if p is not None and p < LEVEL]
    if firm:
        at = [x[k] for k in firm], [value[k] for k in firm]
        axis.plot(*at, "o", color=colour, markersize=4.5, label=f"adjusted p < {LEVEL:g}")


def _as_written(value: float | None) -> float:
    """A number as the CSV has it: its last bits may differ from machine to machine."""
    return np.nan if value is None else float(f"{value:.9g}")


def _runs(values: Sequence[float]) -> list[int]:
    """Where a stretch without gaps begins: as many as there are values where each stands alone."""
    known = [value == value for value in values]
    return [k for k, here in enumerate(known) if here and not (k and known[k - 1])]


def _say(axis: Axes, text: str) -> None:
    wrapped = "\n".join(textwrap.wrap(text, 34))
    axis.text(0.5, 0.5, wrapped, ha="center", va="center", transform=axis.transAxes, fontsize=9)


def _shade(axis: Axes, view: Lines | Dots) -> None:
    for low, high in view.shade:
        name = view.shade_name or None
        axis.axvspan(low, high, color=GREY, alpha=0.22, linewidth=0, label=name)


def _dots(axis: Axes, view: Dots) -> None:
    """A row each: for every series a dot and its interval; smaller grey dots below."""
    _titled(axis, view.title, view.x, Axis())
    _shade(axis, view)
    if view.zero:
        axis.axvline(0, color=GREY, linewidth=1)
    middle = (len(view.series) - 1) / 2
    apart = min(0.3, 0.3 / middle) if middle else 0.0  # so that rows stay apart from each other
    for i, name in enumerate(view.series):
        _series(axis, [row.points[i] for row in view.lines], apart * (i - middle), i, name)
    for y, row in enumerate(view.lines):
        small = [_as_written(value) for value in row.small if value is not None]
        axis.plot(small, [y + 0.25] * len(small), ".", color=GREY)
        if row.points[0].value is None:
            at = axis.transData if view.zero else axis.get_yaxis_transform()
            beside: Any = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
            reason = f"n/a ({row.points[0].reason})"
            axis.annotate(reason, (0, y), xycoords=at, fontsize=9, **beside)
    axis.set_yticks(range(len(view.lines)), [printable(row.name) for row in view.lines])
    axis.set_ylim(len(view.lines) - 0.5, -0.5)
    if not view.x.percent:
        axis.xaxis.set_major_locator(MaxNLocator(6 if _alone(axis) else 4))
    axis.margins(x=0.12)
    if view.limits:
        axis.set_xlim(*view.limits)
    axis.grid(True, axis="x")


def _alone(axis: Axes) -> bool:
    """Whether it has its row for itself, so that many numbers fit under it."""
    place = axis.get_subplotspec()
    return place is None or place.get_gridspec().ncols == 1


def _series(axis: Axes, points: Sequence[Any], off: float, i: int, name: str) -> None:
    known = [(y + off, e) for y, e in enumerate(points) if e.value is not None]
    for y, e in known:
        if e.low is not None:
            ends = [_as_written(e.low), _as_written(e.high)]
            axis.plot(ends, [y, y], color=COLOURS[i], alpha=0.65)
    at = [_as_written(e.value) for _, e in known], [y for y, _ in known]
    axis.plot(*at, "os^v"[i % 4], color=COLOURS[i], label=printable(name) or None)


def _map(axis: Axes, view: Map) -> AxesImage:
    low, high = view.limits
    norm = TwoSlopeNorm(0.0, low, high) if view.zero else Normalize(low, high)
    colours = "RdBu_r" if view.zero else "viridis"
    narrow = max(view.grid.shape) > 1.5 * min(view.grid.shape)
    image = axis.imshow(
        view.grid,
        cmap=colours,
        norm=norm,
        origin="lower",
        interpolation="none",
        aspect="auto" if narrow else "equal",
    )
    axis.set_title(printable(view.title), fontsize=9)
    axis.set(xlabel=view.x.title, ylabel=view.y.title)
    for which in (axis.xaxis, axis.yaxis):
        which.set_major_locator(MaxNLocator(4, integer=True))
    axis.spines[:].set_visible(False)
    return image


def token_map(view: Tokens) -> Figure:
    """Layer x position: the top token in each cell, coloured by its probability.

    A frame marks the cells in which the answer is at rank 1. Long prompts: the last positions.
    """
    cells = view.cells
    first = max(len(cells.tokens) - MOST_POSITIONS, 0)
    names = [shortened(token) for token in list(cells.tokens.values())[first:]]
    n, width = len(cells.layers), len(names)
    figure = Figure(figsize=(max(1.02 * width, 3) + 1.8, 0.235 * n + 1), layout="constrained")
    axis = figure.subplots()
    grid = np.array([[_top(probs, np.nan) for probs in row[first:]] for row in cells.probs], float)
    edges = np.arange(width + 1) - 0.5, np.arange(n + 1) - 0.5
    colours = mpl.colormaps["viridis"]
    mesh = axis.pcolormesh(
        *edges, grid, cmap=colours, vmin=0, vmax=1, edgecolors="face", linewidth=0.2
    )
    for y, row in enumerate(cells.top):
        for x, tokens in enumerate(row[first:]):
            colour = (0.0, 0.0, 0.0, 1.0) if np.isnan(grid[y, x]) else colours(grid[y, x])
            _cell(axis, x, y, _top(tokens, ""), colour, cells.rank[y][first + x] == 1)
    axis.set_xticks(range(width), names, fontsize=9.5)
    shown = range(0, n, 1 if n <= 41 else 2)
    axis.set_yticks(shown, [str(cells.layers[y]) for y in shown])
    axis.tick_params(length=0)
    axis.set(xlabel="position (its token)", ylabel="layer (0: embedding)")
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(mesh, ax=axis, label="probability of the top token", aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    return figure


def _top(best: Sequence[Any], missing: Any) -> Any:
    """The best of a cell; where it was not recorded, `missing`."""
    return best[0] if len(best) else missing


def _cell(axis: Axes, x: int, y: int, token: str, colour: Any, framed: bool) -> None:
    ink = _readable_on(colour)
    style: Any = {"ha": "center", "va": "center", "fontsize": 9, "clip_on": True}
    axis.text(x, y, shortened(token), color=ink, **style)
    if framed:
        frame: Any = {"fill": False, "edgecolor": "#ff7f2a", "lw": 2, "zorder": 3}
        axis.add_patch(Rectangle((x - 0.47, y - 0.44), 0.94, 0.88, **frame))


def shortened(token: str, width: int = TOKEN_WIDTH) -> str:
    """A token made visible and cut to `width` columns; wide characters count as two."""
    text, used = visible(token), 0
    for i, character in enumerate(text):
        used += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if used > width:
            return text[: max(i - 1, 1)] + "…"
    return text


def _readable_on(colour: tuple[float, float, float, float]) -> str:
    """Near-black or near-white, whichever stands out (relative luminance, ITU-R BT.709)."""
    red, green, blue = (c**2.2 for c in colour[:3])
    return "#111111" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "#f4f4f4"
