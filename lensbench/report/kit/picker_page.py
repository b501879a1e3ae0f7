"""One interactive page from pickers and charts: what a chapter computed, to choose from and hover.

A chart depends on some of the pickers and has one view for every combination of their options. What
many views have in common (axes, names, notes) is kept once, as their frame.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from lensbench.escape import printable
from lensbench.report.kit.html import rendered
from lensbench.stats.bootstrap import LEVEL, Estimate

_DIGITS = 4
_MOST_NAMED = 3  # places that a note names


@dataclass(frozen=True)
class Picker:
    """A named dropdown."""

    name: str
    options: Mapping[str, str]  # what makes the views -> what the reader sees
    chosen: str | None = None  # at first; None: the first option


@dataclass(frozen=True)
class Axis:
    """An axis; `percent`: its values are shares of 1."""

    title: str
    percent: bool = False


@dataclass(frozen=True)
class Line:
    """A named curve (or, among dots, one row): an Estimate for each place."""

    name: str
    points: Sequence[Estimate]
    p: Sequence[float | None] = ()  # adjusted, for each place; empty where nothing is tested
    p_reasons: Sequence[str | None] = ()
    dash: str = "solid"
    small: Sequence[float | None] = ()  # smaller dots beside a row, as the frame labels them


@dataclass(frozen=True)
class Frame:
    """Everything of a view but its numbers."""

    kind: Literal["lines", "map", "dots", "nothing"]
    note: str = ""  # what is missing, and why
    x: Axis = Axis("")
    y: Axis = Axis("")
    places: tuple[float, ...] = ()  # along x
    labels: tuple[str, ...] = ()  # of the places, for hovering
    names: tuple[str, ...] = ()  # of the lines or rows
    dashes: tuple[str, ...] = ()
    zero: bool = False  # a line at zero: the values are changes
    limits: tuple[float, float] | None = None  # of a map's colours


@dataclass(frozen=True)
class View:
    """What a chart shows for one combination of options."""

    frame: Frame
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chart:
    """A heading, a sentence, and a view for each combination of the options of its pickers."""

    heading: str
    sentence: str
    pickers: tuple[Picker, ...]
    views: Mapping[tuple[int, ...], View]


def chart(
    heading: str, sentence: str, pickers: Sequence[Picker], make: Callable[..., View]
) -> Chart:
    """The chart whose views `make(option, ...)` gives, an option of each picker at a time."""
    every = [enumerate(picker.options) for picker in pickers]
    views = {
        tuple(i for i, _ in combination): make(*(option for _, option in combination))
        for combination in itertools.product(*every)
    }
    return Chart(heading, sentence, tuple(pickers), views)


def lines_view(
    x: Axis,
    y: Axis,
    places: Mapping[float, str],
    lines: Sequence[Line],
    zero: bool = False,
    shade: Sequence[tuple[float, float]] = (),
) -> View:
    """Curves over `places` (where -> what hovering calls it), ribbons where there are intervals."""
    labels = tuple(places.values())
    if not _any_value(lines):
        return nothing_view(_note(lines, labels) or "n/a: nothing was measured.")
    frame = Frame(
        "lines", _note(lines, labels), x, y, tuple(places), labels, _names(lines),
        tuple(line.dash for line in lines), zero,
    )  # fmt: skip
    return View(frame, {"lines": [_curve(line) for line in lines], "shade": shade})


def dots_view(
    x: Axis, rows: Sequence[Line], labels: Sequence[str] = (), zero: bool = False
) -> View:
    """A row for each line of one point: a dot, its interval, and its `small` dots."""
    if not _any_value(rows):
        return nothing_view(_note(rows, ("",)) or "n/a: nothing was measured.")
    frame = Frame(
        "dots", _note(rows, ("",)), x, labels=tuple(labels), names=_names(rows), zero=zero
    )
    return View(frame, {"lines": [_curve(row) for row in rows]})


def map_view(
    x: Axis, y: Axis, grid: np.ndarray, limits: tuple[float, float], zero: bool = False
) -> View:
    """A heat map of `grid` [y, x]; with `zero` the colours part there."""
    low, high = map(_significant, limits)
    frame = Frame("map", "", x, y, limits=(low, high), zero=zero)
    return View(frame, {"grid": [[significant(value) for value in row] for row in grid]})


def nothing_view(reason: str) -> View:
    """No chart, and why."""
    return View(Frame("nothing", reason))


def picker_page(
    title: str, sentence: str, pickers: Sequence[Picker], charts: Sequence[Chart]
) -> bytes:
    """The page as one file that needs nothing else. Missing values are gaps, and said."""
    frames: dict[Frame, int] = {}
    data = {
        "level": LEVEL,
        "charts": [
            {
                "pickers": [pickers.index(picker) for picker in chart.pickers],
                "views": {
                    ",".join(map(str, place)): {
                        **view.numbers,
                        "frame": frames.setdefault(view.frame, len(frames)),
                    }
                    for place, view in chart.views.items()
                },
            }
            for chart in charts
        ],
    }
    data["frames"] = [asdict(frame) for frame in frames]
    page = rendered(
        "picker.html.j2",
        data,
        title=printable(title),
        sentence=sentence,
        pickers=[_dropdown(picker) for picker in pickers],
        charts=charts,
    )
    return page.encode()


def _dropdown(picker: Picker) -> dict[str, Any]:
    """A picker as the template draws it."""
    chosen = next(iter(picker.options)) if picker.chosen is None else picker.chosen
    options = [(printable(text), option == chosen) for option, text in picker.options.items()]
    return {"name": picker.name, "options": options}


def significant(value: float | None) -> float | int | None:
    """A number with 4 significant digits, whole ones as int, missing ones as None."""
    return None if value is None or not math.isfinite(value) else _significant(value)


def _significant(value: float) -> float | int:
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _names(lines: Sequence[Line]) -> tuple[str, ...]:
    return tuple(printable(line.name) for line in lines)


def _any_value(lines: Sequence[Line]) -> bool:
    return any(point.value is not None for line in lines for point in line.points)


def _curve(line: Line) -> dict[str, Any]:
    """A line's numbers; its ends, p-values and small dots where it has any."""
    made: dict[str, Any] = {"y": [significant(point.value) for point in line.points]}
    if any(point.low is not None for point in line.points):
        made["low"] = [significant(point.low) for point in line.points]
        made["high"] = [significant(point.high) for point in line.points]
    for name, values in (("p", line.p), ("small", line.small)):
        if any(value is not None for value in values):
            made[name] = [significant(value) for value in values]
    return made


def _note(lines: Sequence[Line], labels: Sequence[str]) -> str:
    """Why values, intervals or p-values are missing: each reason once, with whose it is."""
    whose: dict[str, list[str]] = {}
    for line in lines:
        for reason, where in _reasons(line).items():
            everywhere = len(where) == len(labels)
            named = ", ".join(labels[k] for k in where[:_MOST_NAMED])
            more = ", …" if len(where) > _MOST_NAMED else ""
            text = reason if everywhere else f"{reason} ({named}{more})"
            whose.setdefault(text, []).append(printable(line.name))
    said = [
        text if len(names) == len(lines) else f"{', '.join(names)}: {text}"
        for text, names in whose.items()
    ]
    return ". ".join(said) + "." * bool(said)


def _reasons(line: Line) -> dict[str, list[int]]:
    """Every reason of a line, and the places where it holds."""
    found: dict[str, list[int]] = {}
    for k, point in enumerate(line.points):
        if point.reason and point.low is None:
            missing = "n/a: " if point.value is None else ""
            found.setdefault(missing + printable(point.reason), []).append(k)
        elif point.reason is None and point.value is None:
            found.setdefault("not recorded", []).append(k)
    for k, reason in enumerate(line.p_reasons):
        if reason and line.points[k].value is not None:
            found.setdefault(f"no p: {printable(reason)}", []).append(k)
    return found
