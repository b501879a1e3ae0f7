"""The interactive page of a correlation study: curves, changes above controls, layer x layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lensbench.records.schema.correlation import SIMILARITY_MEASURES, VARIANTS
from lensbench.report.correlation.figures import MAIN, layer_grid, ranking_measure
from lensbench.report.kit.numbers import is_missing
from lensbench.report.kit.picker_page import (
    Axis,
    Chart,
    Line,
    Picker,
    View,
    chart,
    lines_view,
    map_view,
    nothing_view,
    picker_page,
)
from lensbench.report.kit.tables import Table
from lensbench.stats.bootstrap import Estimate

_LAYER = Axis("layer")
_Grids = dict[str, np.ndarray]  # of every condition; they share their colours
_NOTHING = Estimate(None, None, None, 0, 0, "not compared")


def correlation_page(model: str, made: Mapping[str, Table], ranking: pd.DataFrame) -> bytes:
    """`report.html`; `ranking`: the changes by every measure, each an Estimate."""
    similarity, choice = made["similarity"].frame, made["choice"].frame
    pickers = _pickers(similarity, made["maps"].frame)
    span, measure, variant, condition, mapped = pickers
    charts = [
        chart(
            "Similarity to the reference",
            "Every condition by layer; controls are dotted; ribbons are 95 % intervals.",
            (span, measure, variant),
            lambda p, m, v: _similarity(_of(similarity, span=p, measure=m, variant=v), m),
        ),
        chart(
            "Change above each control",
            "1 - similarity (or the distance) to the reference, less the control's. Large dots: an "
            "adjusted p below 0.05; shaded: what the chosen blocks put out.",
            (span, measure, variant, condition),
            lambda p, m, v, c: _change(
                _of(ranking, span=p, measure=m, variant=v, condition=c),
                _of(choice, span=p, measure=m, variant=v, condition=c),
            ),
        ),
        *_map_charts(made["maps"].frame, (span, condition, mapped)),
    ]
    sentence = (
        "Layer 0 is the embedding, layer i what leaves the i-th block. Pick what to see; hover for "
        "the numbers; click a name in a legend to hide its curve."
    )
    return picker_page(f"Which layers changed: {model}", sentence, pickers, charts)


def _of(frame: pd.DataFrame, **labels: str) -> pd.DataFrame:
    """The rows with these labels."""
    for column, label in labels.items():
        frame = frame[frame[column] == label]
    return frame


def _pickers(
    similarity: pd.DataFrame, maps: pd.DataFrame
) -> tuple[Picker, Picker, Picker, Picker, Picker]:
    """Span, measure, variant, condition, and which map."""

    def there(names: Mapping[str, str], column: str) -> dict[str, str]:
        return {k: text for k, text in names.items() if (similarity[column] == k).any()}

    spans = {name: f"{name} tokens" for name in dict.fromkeys(similarity["span"])}
    measures, variants = there(SIMILARITY_MEASURES, "measure"), there(VARIANTS, "variant")
    mapped = {
        f"{m} {v}": f"{m}, {VARIANTS[v]}"
        for m, v in dict.fromkeys(zip(maps["measure"], maps["variant"], strict=True))
    }
    return (
        Picker("Token span", spans),
        Picker("Measure", measures, ranking_measure(similarity)),
        Picker("Variant", variants, MAIN if MAIN in variants else None),
        Picker("Condition", _conditions(similarity, maps)),
        Picker("Map", mapped or {"": "none"}),
    )


def _conditions(similarity: pd.DataFrame, maps: pd.DataFrame) -> dict[str, str]:
    """Conditions first, then controls, then the reference, which has a map only."""
    roles = dict(zip(similarity["condition"], similarity["role"], strict=True))
    ordered = sorted(roles, key=lambda name: roles[name] == "control")
    rest = [name for name in dict.fromkeys(maps["condition"]) if name not in roles]
    return {name: f"{name} ({roles.get(name, 'reference')})" for name in (*ordered, *rest)}


def _places(frame: pd.DataFrame) -> dict[float, str]:
    return {int(layer): f"layer {layer}" for layer in sorted(set(frame["layer"]))}


def _points(frame: pd.DataFrame, column: str, places: Mapping[float, str]) -> list[Estimate]:
    by_layer = dict(zip(frame["layer"], frame[column], strict=True))
    return [by_layer.get(layer, _NOTHING) for layer in places]


def _similarity(frame: pd.DataFrame, measure: str) -> View:
    """A curve for each condition and control."""
    places = _places(frame)
    curves = [
        Line(
            f"{condition} ({own['role'].iloc[0]})",
            _points(own, "value", places),
            dash="dot" if (own["role"] == "control").all() else "solid",
        )
        for condition, own in frame.groupby("condition", sort=False)
    ]
    return lines_view(_LAYER, Axis(measure.replace("_", " ")), places, curves)


def _change(frame: pd.DataFrame, choice: pd.DataFrame) -> View:
    """A curve for each control, or the one without any."""
    if frame.empty:
        return nothing_view("Changes are of conditions, against the reference and the controls.")
    places = _places(frame)
    curves = []
    for control, own in frame.groupby("control", sort=False, dropna=False):
        name = f"above {control}" if isinstance(control, str) else "from the reference"
        by_layer = own.set_index("layer").reindex(list(places))
        p = _cells(by_layer["p_adjusted"])
        curves.append(Line(name, _points(own, "change", places), p, _cells(by_layer["p_reason"])))
    shade = [
        (row["first_block"] + 0.5, row["last_block"] + 1.5)  # block i puts out layer i + 1
        for row in choice.dropna(subset=["first_block"]).to_dict("records")
    ]
    return lines_view(_LAYER, Axis("change"), places, curves, zero=True, shade=shade)


def _cells(column: pd.Series) -> list[Any]:
    return [None if is_missing(value) else value for value in column]


def _map_charts(maps: pd.DataFrame, pickers: tuple[Picker, Picker, Picker]) -> list[Chart]:
    """The map of a condition, and the difference to the reference's."""
    grids: dict[tuple[str, str], _Grids] = {}
    for labels, own in maps.groupby(["span", "measure", "variant", "condition"], sort=False):
        span, measure, variant, condition = map(str, labels)
        grids.setdefault((span, f"{measure} {variant}"), {})[condition] = layer_grid(own)
    reference = next(iter(maps["condition"]), "")
    return [
        chart(
            "Layer by layer",
            "Similarity of two layers within the picked condition.",
            pickers,
            lambda p, c, m: _map(grids.get((p, m), {}), c),
        ),
        chart(
            "Layer by layer, less the reference",
            f"The picked condition's map minus the map of {reference}.",
            pickers,
            lambda p, c, m: _difference(grids.get((p, m), {}), c, reference),
        ),
    ]


def _map(grids: _Grids, condition: str) -> View:
    known = [grid[np.isfinite(grid)] for grid in grids.values()]
    lowest = min((float(values.min()) for values in known if values.size), default=None)
    if lowest is None or condition not in grids:
        return nothing_view("n/a: no map was measured.")
    return map_view(_LAYER, _LAYER, grids[condition], (min(lowest, 0.99), 1.0))


def _difference(grids: _Grids, condition: str, reference: str) -> View:
    if condition == reference:
        return nothing_view("The reference itself was picked.")
    others = {c: g - grids[reference] for c, g in grids.items() if c != reference}
    known = [float(np.nanmax(np.abs(g))) for g in others.values() if np.isfinite(g).any()]
    if not known or condition not in others:
        return nothing_view("n/a: no map was measured.")
    most = max(*known, 1e-9)
    return map_view(_LAYER, _LAYER, others[condition], (-most, most), zero=True)
