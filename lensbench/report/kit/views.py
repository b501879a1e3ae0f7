"""What a chart shows: curves, rows of dots, maps, tokens or texts. Drawn as SVG and on the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import UInt16

from lensbench.escape import printable
from lensbench.report.kit.numbers import is_missing
from lensbench.stats.estimates import Estimate

Dash = Literal["solid", "dash", "dashdot", "dot"]
Places = Mapping[float, str]  # where along x -> what hovering calls it
# Mid-tones that read on white and on black, after Okabe & Ito's palette for the colour-blind; the
# second six are far from those and from each other (CIELAB).
COLOURS = (
    "#2f81c7",
    "#d55e00",
    "#009e73",
    "#b8860b",
    "#c06a9c",
    "#56a0b5",
    "#8a4fe0",
    "#4ea81a",
    "#d63fc8",
    "#e0355f",
    "#3556c8",
    "#806040",
)
UNKNOWN = 65535  # of Looks
_MOST_NAMED = 3  # places that a note names


@dataclass(frozen=True)
class Axis:
    """An axis; `percent`: its values are shares of 1; `flag`: what a single item's 1 means."""

    title: str = ""
    percent: bool = False
    log: bool = False
    flag: str = ""


@dataclass(frozen=True)
class Line:
    """A named curve (or, among dots, one row): an Estimate for each place."""

    name: str
    points: Sequence[Estimate]
    p: Sequence[float | None] = ()  # adjusted, for each place; empty where nothing is tested
    p_reasons: Sequence[str | None] = ()
    dash: Dash = "solid"
    places: Places | None = None  # its own; None: those of the view
    small: Sequence[float | None] = ()  # smaller dots beside a row, as the view labels them


@dataclass(frozen=True)
class Lines:
    """Curves over places, ribbons where there are intervals, large dots where p is small."""

    x: Axis
    y: Axis
    places: Places
    lines: Sequence[Line]
    title: str = ""
    zero: bool = False  # a line at zero: the values are changes
    shade: Sequence[tuple[float, float]] = ()  # stretches of x
    shade_name: str = ""
    limits: tuple[float, float] | None = None  # of y

    @property
    def note(self) -> str:
        """What is missing, and why."""
        return _note([(line, list((line.places or self.places).values())) for line in self.lines])


@dataclass(frozen=True)
class Dots:
    """A row for each line: a dot with its interval for each series, and its `small` dots."""

    x: Axis
    lines: Sequence[Line]  # a row each
    title: str = ""
    series: Sequence[str] = ("",)
    small: Sequence[str] = ()  # what the rows' small dots are
    zero: bool = False
    shade: Sequence[tuple[float, float]] = ()
    shade_name: str = ""
    limits: tuple[float, float] | None = None  # of x

    @property
    def note(self) -> str:
        """What is missing, and why."""
        return _note([(row, list(self.series)) for row in self.lines])


@dataclass(frozen=True)
class Map:
    """A heat map of `grid` [y, x]; with `zero` the colours part there.

    `names` are those of the places along both axes, where they are not their numbers.
    """

    x: Axis
    y: Axis
    grid: np.ndarray
    limits: tuple[float, float]
    title: str = ""
    zero: bool = False
    note: str = ""
    names: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Cells:
    """What a lens reads of one prompt: layer by layer and position by position."""

    layers: Sequence[int]
    tokens: Mapping[int, str]  # position -> its token
    top: Sequence[Sequence[Sequence[str]]]  # [layer][position][k] the best tokens
    probs: Sequence[Sequence[Sequence[float]]]
    rank: Sequence[Sequence[float | None]]  # of the answer
    measures: Mapping[str, Sequence[Sequence[float | None]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tokens:
    """The top token in each cell, coloured by its probability or by one of the measures."""

    cells: Cells
    measures: Mapping[str, str]  # name -> what the reader sees
    colour: str = ""  # a measure; empty: the top token's probability
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Texts:
    """Texts of one item, each with what it is."""

    rows: Sequence[tuple[str, str]]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Looks:
    """What every head of a block looks at, of one prompt.

    A head's weights are those of each query to itself and to all before it, or to every token (n²),
    query after query, in thousandths; `UNKNOWN` where there is none.
    """

    tokens: Sequence[str]
    weights: UInt16[np.ndarray, "head cell"]

    @property
    def both_ways(self) -> bool:
        """Whether each token may look at every other."""
        return self.weights.shape[1] == len(self.tokens) ** 2


@dataclass(frozen=True)
class HeadView:
    """Lines from each token to those that a head looks at; without a head, the mean of all."""

    looks: Looks
    head: int | None
    note: str = ""


@dataclass(frozen=True)
class Nothing:
    """No chart, and why."""

    note: str


def by_depth(frame: pd.DataFrame) -> dict[float, str]:
    """Its depths -> the layer that each is of; between models of different depths it has none."""
    return {
        float(depth): f"depth {depth:.1%}" if is_missing(layer) else f"layer {layer}, {depth:.1%}"
        for depth, layer in zip(frame["depth"], frame["layer"], strict=True)
    }


View = Lines | Dots | Map | Tokens | Texts | HeadView | Nothing


def nothing_measured(lines: Sequence[Line]) -> bool:
    """Whether no line has a value."""
    return all(point.value is None for line in lines for point in line.points)


def of_values(values: Iterable[Any], reason: str = "not recorded") -> list[Estimate]:
    """Plain numbers as points without intervals; missing ones with the reason."""
    return [
        Estimate(None, None, None, 0, 0, reason)
        if is_missing(value)
        else Estimate(float(value), None, None, 1, 1)
        for value in values
    ]


def _note(lines: Sequence[tuple[Line, Sequence[str]]]) -> str:
    """Why values, intervals or p-values are missing: each reason once, with whose it is."""
    whose: dict[str, list[str]] = {}
    for line, labels in lines:
        for reason, where in _reasons(line).items():
            named = ", ".join(labels[k] for k in where[:_MOST_NAMED])
            more = ", …" if len(where) > _MOST_NAMED else ""
            text = reason if len(where) == len(labels) else f"{reason} ({named}{more})"
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
