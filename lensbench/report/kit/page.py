"""The interactive page: one HTML file with everything in it, so it opens offline, years later.

A chart depends on some of the pickers and has one view for every combination of their options. What
many views have in common (axes, names, notes) is kept once, as their frame.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import jinja2
import plotly.offline
from markupsafe import Markup

from lensbench.escape import printable, visible
from lensbench.report.kit.table import Table, to_csv
from lensbench.report.kit.views import (
    COLOURS,
    Cells,
    Dots,
    HeadView,
    Line,
    Lines,
    Looks,
    Map,
    Nothing,
    Texts,
    Tokens,
    View,
    nothing_measured,
)
from lensbench.stats.estimates import LEVEL

MOST_ITEMS = 300  # prompts in a picker
MOST_TABLE_ROWS = 10_000  # of a table that can be taken along
WHOLE = ""  # of a picker of items: the option of the mean over all
_DIGITS = 4
_TOP_K = 5


@dataclass(frozen=True)
class Picker:
    """A named dropdown. With `facets` its options are items, which can be searched and filtered."""

    name: str
    options: Mapping[str, str]  # what makes the views -> what the reader sees
    chosen: str | None = None  # at first; None: the first option
    facets: Mapping[str, Mapping[str, str]] | None = None  # relation -> option -> its relation
    n_all: int = 0  # items that there are


def items(
    name: str,
    options: Mapping[str, str],
    facets: Mapping[str, Mapping[str, str]],
    whole: str = "",
    n_all: int | None = None,
) -> Picker:
    """A picker of items, the first of them; `whole`: what the option of all of them is called.

    `n_all`: how many there are, where `options` are not all.
    """
    kept = dict(itertools.islice(options.items(), MOST_ITEMS))
    first = {WHOLE: whole} if whole else {}
    searched = facets if len(options) > 1 else None
    return Picker(name, first | kept, facets=searched, n_all=n_all or len(options))


@dataclass(frozen=True)
class Chart:
    """A heading, a sentence, and a view for each combination of the options of its pickers."""

    heading: str
    sentence: str
    pickers: Sequence[Picker]
    views: Mapping[tuple[int, ...], View]
    under: Lines | None = None  # drawn beneath every view
    size: Literal["", "small", "wide"] = ""


@dataclass(frozen=True)
class Page:
    """What a section has to show."""

    title: str
    sentence: str
    pickers: Sequence[Picker]
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Facts:
    """What stands around the charts: where they are from, and the numbers to take along."""

    summary: str = "Where this is from"
    rows: Sequence[tuple[str, str]] = ()
    gate: Sequence[Mapping[str, str]] = ()
    gate_said: str = ""  # what follows from it
    report: str = ""  # address of the Markdown report
    tables: Sequence[Table] = ()


def chart(
    heading: str,
    sentence: str,
    pickers: Sequence[Picker],
    make: Callable[..., View],
    under: Lines | None = None,
    size: Literal["", "small", "wide"] = "",
) -> Chart:
    """The chart whose views `make(option, ...)` gives, an option of each picker at a time."""
    every = [enumerate(picker.options) for picker in pickers]
    views = {
        tuple(i for i, _ in combination): make(*(option for _, option in combination))
        for combination in itertools.product(*every)
    }
    return Chart(heading, sentence, pickers, views, under, size)


def plain_charts(views: Sequence[Lines | Dots], sentence: str) -> list[Chart]:
    """A chart of each, under its title, which no picker changes."""
    return [chart(view.title, sentence, (), lambda view=view: view) for view in views]


def page_html(page: Page, facts: Facts | None = None) -> bytes:
    """The page as one file that needs nothing else. Missing values are gaps, and said."""
    facts, packed = facts or Facts(), _Packed()
    tables = [table.head(MOST_TABLE_ROWS) for table in facts.tables]
    data = {
        "level": LEVEL,
        "colours": COLOURS,
        "pickers": [_picker(picker) for picker in page.pickers],
        "charts": [
            {
                "pickers": [page.pickers.index(picker) for picker in chart.pickers],
                "size": chart.size,
                "under": packed.view(chart.under) if chart.under else None,
                "views": {",".join(map(str, at)): packed.view(v) for at, v in chart.views.items()},
            }
            for chart in page.charts
        ],
        "frames": [json.loads(frame) for frame in packed.frames],
        "words": list(packed.words),
        "cells": packed.cells,
        "looks": packed.looks,
        "tables": [_table(table) for table in tables],
    }
    return filled(
        beside("page.html.j2"),
        plotly=Markup(plotly.offline.get_plotlyjs() if _by_plotly(page) else ""),
        style=Markup(beside("page.css")),
        script=Markup(beside("inflated.js", "head_view.js", "page.js")),
        data=Markup(embedded_json(data)),
        title=printable(page.title),
        sentence=page.sentence,
        pickers=[_dropdown(picker) for picker in page.pickers],
        listed=any(
            isinstance(view, Lines | Dots) and any(p.facets is not None for p in one.pickers)
            for one in page.charts
            for view in one.views.values()
        ),
        charts=page.charts,
        summary=facts.summary,
        facts=[(name, printable(value)) for name, value in facts.rows],
        gate=facts.gate,
        gate_said=facts.gate_said,
        report=facts.report,
        tables=[(table.saved, table.title) for table in tables],
        cut=[(t, f"{len(t.frame):,} of {t.n_rows:,}") for t in tables if t.n_rows is not None],
    )


def _by_plotly(page: Page) -> bool:
    """Whether anything is drawn by Plotly, which is 5 MB."""
    drawn = [view for chart in page.charts for view in [*chart.views.values(), chart.under] if view]
    return not all(isinstance(view, HeadView | Texts | Nothing) for view in drawn)


def beside(*names: str) -> str:
    """Files of the kit, one after the other."""
    here = Path(__file__).parent
    return "".join((here / name).read_text(encoding="utf-8") for name in names)


def filled(template: str, /, **values: object) -> bytes:
    """A page out of the text of its template; all values but Markup are escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(**values).encode()


def embedded_json(data: object) -> str:
    """JSON that can stand inside a script element: nothing in it can close the element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _picker(picker: Picker) -> dict[str, Any]:
    """What the script knows of a picker: its options as links name them, and their facets."""
    facets = None
    if picker.facets is not None:
        facets = {
            name: [printable(values.get(option, "")) for option in picker.options]
            for name, values in picker.facets.items()
        }
    return {"name": picker.name.lower(), "keys": list(picker.options), "facets": facets}


def _dropdown(picker: Picker) -> dict[str, Any]:
    """A picker as the template draws it."""
    chosen = next(iter(picker.options), None) if picker.chosen is None else picker.chosen
    options = [(printable(text), option == chosen) for option, text in picker.options.items()]
    facets = None
    if picker.facets is not None:
        facets = [
            (name, sorted({printable(value) for value in values.values()}))
            for name, values in picker.facets.items()
            if len(set(values.values())) > 1
        ]
    n_items = sum(option != WHOLE for option in picker.options)
    few = (n_items, picker.n_all) if n_items < picker.n_all else None
    return {"name": picker.name, "options": options, "facets": facets, "few": few}


def _table(table: Table) -> dict[str, str]:
    return {"name": table.saved, "packed": deflated(to_csv(table), 9)}


def deflated(raw: bytes, level: int) -> str:
    """Bytes as `inflated.js` unpacks them."""
    return base64.b64encode(zlib.compress(raw, level)).decode("ascii")


@dataclass
class _Packed:
    """Views as JSON: their frames, shown tokens and cells are kept once."""

    frames: dict[str, int] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)
    cells: list[dict[str, Any]] = field(default_factory=list)
    looks: list[dict[str, Any]] = field(default_factory=list)
    _seen: dict[int, tuple[int, Cells | Looks]] = field(default_factory=dict)

    def view(self, view: View) -> dict[str, Any]:
        """A view's numbers, and the number of its frame."""
        frame, numbers = self._parts(view)
        number = self.frames.setdefault(json.dumps(frame), len(self.frames))
        return {**numbers, "frame": number}

    def _parts(self, view: View) -> tuple[dict[str, Any], dict[str, Any]]:
        """A view's frame and numbers."""
        frame: dict[str, Any] = {"kind": type(view).__name__.lower(), "note": view.note}
        if isinstance(view, Lines | Dots):
            if nothing_measured(view.lines):
                return self._parts(Nothing(view.note or "n/a: nothing was measured."))
            shade = [[significant(end) for end in stretch] for stretch in view.shade]
            limits = view.limits and [significant(limit) for limit in view.limits]
            numbers = {"lines": [_curve(line) for line in view.lines], "shade": shade}
            return frame | _frame(view), numbers | ({"limits": limits} if limits else {})
        if isinstance(view, Map):
            frame |= {"x": asdict(view.x), "y": asdict(view.y), "zero": view.zero}
            frame |= {"limits": [significant(limit) for limit in view.limits]}
            frame |= {"names": [printable(name) for name in view.names]} if view.names else {}
            return frame, {"grid": _grid(view.grid)}
        if isinstance(view, Tokens):
            frame |= {"measures": dict(view.measures), "colour": view.colour}
            return frame, {"cells": self._cells(view.cells)}
        if isinstance(view, HeadView):
            return frame, {"looks": self._looks(view.looks), "head": view.head}
        return frame, {"texts": [list(row) for row in view.rows]} if isinstance(view, Texts) else {}

    def _cells(self, cells: Cells) -> int:
        """The number of these cells; several views show the same ones."""
        if id(cells) not in self._seen:
            self._seen[id(cells)] = (len(self.cells), cells)
            self.cells.append(self._numbered(cells))
        return self._seen[id(cells)][0]

    def _looks(self, looks: Looks) -> int:
        """The number of these looks; the views of all heads of a block show the same ones."""
        if id(looks) not in self._seen:
            self._seen[id(looks)] = (len(self.looks), looks)
            tokens = [self._number(token) for token in looks.tokens]
            raw = looks.weights.astype("<u2").tobytes()
            packed = {"tokens": tokens, "weights": deflated(raw, 6), "both": looks.both_ways}
            self.looks.append(packed)
        return self._seen[id(looks)][0]

    def _number(self, token: str | None) -> int:
        return self.words.setdefault(visible(token or ""), len(self.words))

    def _numbered(self, cells: Cells) -> dict[str, Any]:
        """Cells with their tokens as numbers of words."""
        number = self._number
        return {
            "layers": [int(layer) for layer in cells.layers],
            "positions": [int(position) for position in cells.tokens],
            "tokens": [number(token) for token in cells.tokens.values()],
            "rank": _grid(cells.rank),
            "measures": {name: _grid(grid, _short) for name, grid in cells.measures.items()},
            "top": [[[number(t) for t in ts[:_TOP_K]] for ts in row] for row in cells.top],
            "probs": [[[_short(p) for p in ps[:_TOP_K]] for ps in row] for row in cells.probs],
        }


def _frame(view: Lines | Dots) -> dict[str, Any]:
    """What the numbers of curves or dots stand in; curves over the same places share them."""
    names = [printable(line.name) for line in view.lines]
    frame: dict[str, Any] = {"x": asdict(view.x), "names": names, "zero": view.zero}
    if isinstance(view, Dots):
        return frame | {"series": list(view.series), "labels": list(view.small)}
    of_lines = [tuple((line.places or view.places).items()) for line in view.lines]
    places = list(dict.fromkeys(of_lines))
    return frame | {
        "y": asdict(view.y),
        "dashes": [line.dash for line in view.lines],
        "at": [places.index(own) for own in of_lines],
        "places": [[place for place, _ in each] for each in places],
        "labels": [[label for _, label in each] for each in places],
    }


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


def significant(value: float | None) -> float | int | None:
    """A number with 4 significant digits, whole ones as int, missing ones as None."""
    if value is None or not math.isfinite(value):
        return None
    return _whole(float(f"{value:.{_DIGITS}g}"))


def _short(value: float | None) -> float | int | None:
    """A number with at most 4 decimals: of these there are many."""
    if value is None or not math.isfinite(value):
        return None
    return _whole(round(float(value), _DIGITS))


def _grid(grid: Any, each: Callable[[Any], Any] = significant) -> list[list[float | int | None]]:
    return [[each(value) for value in row] for row in grid]


def _whole(value: float) -> float | int:
    return int(value) if value.is_integer() else value
