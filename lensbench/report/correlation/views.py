"""What a correlation study looks like: similarities, changes above controls, layer x layer maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lensbench.records.schema.correlation import SIMILARITY_MEASURES, VARIANTS
from lensbench.report.correlation.tables import MAIN, ranking_measure
from lensbench.report.kit.numbers import is_missing
from lensbench.report.kit.views import Axis, Line, Lines, Map, Nothing
from lensbench.stats.estimates import Estimate

LAYER = Axis("layer")
VARIED = ("pearson", "cosine", "rsa")  # measures that the variants can change
Grids = Mapping[str, np.ndarray]  # of every condition; they share their colours
_NOTHING = Estimate(None, None, None, 0, 0, "not compared")


def rows_of(frame: pd.DataFrame, **labels: str) -> pd.DataFrame:
    """The rows with these labels."""
    for column, label in labels.items():
        frame = frame[frame[column] == label]
    return frame


def similarity(frame: pd.DataFrame, measure: str, title: str = "") -> Lines:
    """A curve for each condition and control; controls are dotted."""
    places = _places(frame)
    curves = [
        Line(
            f"{condition} ({own['role'].iloc[0]})",
            _points(own, "value", places),
            dash="dot" if (own["role"] == "control").all() else "solid",
        )
        for condition, own in frame.groupby("condition", sort=False)
    ]
    axis = Axis(measure.replace("_", " "))
    return Lines(LAYER, Axis(title) if title else axis, places, curves, title)


def change(frame: pd.DataFrame, choice: pd.DataFrame, title: str = "") -> Lines | Nothing:
    """A curve for each control, or the one without any; the chosen blocks' outputs are shaded."""
    if frame.empty:
        return Nothing("Changes are of conditions, against the reference and the controls.")
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
    return Lines(LAYER, Axis("change"), places, curves, title, True, shade, "chosen blocks")


def _places(frame: pd.DataFrame) -> dict[float, str]:
    return {int(layer): f"layer {layer}" for layer in sorted(set(frame["layer"]))}


def _points(frame: pd.DataFrame, column: str, places: Mapping[float, str]) -> list[Estimate]:
    by_layer = dict(zip(frame["layer"], frame[column], strict=True))
    return [by_layer.get(layer, _NOTHING) for layer in places]


def _cells(column: pd.Series) -> list[Any]:
    return [None if is_missing(value) else value for value in column]


def grids(maps: pd.DataFrame) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """(span, measure and variant) -> condition -> [layer, layer]."""
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for labels, own in maps.groupby(["span", "measure", "variant", "condition"], sort=False):
        span, measure, variant, condition = map(str, labels)
        found.setdefault((span, f"{measure} {variant}"), {})[condition] = layer_grid(own)
    return found


def layer_grid(rows: pd.DataFrame) -> np.ndarray:
    """The pairs as a square, both ways round."""
    n = int(rows["layer_b"].max()) + 1
    grid = np.full((n, n), np.nan)
    grid[rows["layer_a"], rows["layer_b"]] = rows["value"]
    grid[rows["layer_b"], rows["layer_a"]] = rows["value"]
    return grid


def layer_map(grids: Grids, condition: str, title: str = "") -> Map | Nothing:
    """Similarity of two layers within a condition."""
    known = [grid[np.isfinite(grid)] for grid in grids.values()]
    lowest = min((float(values.min()) for values in known if values.size), default=None)
    if lowest is None or condition not in grids:
        return Nothing("n/a: no map was measured.")
    return Map(LAYER, LAYER, grids[condition], (min(lowest, 0.99), 1.0), title)


def difference(grids: Grids, condition: str, reference: str, title: str = "") -> Map | Nothing:
    """A condition's map less the reference's."""
    if condition == reference:
        return Nothing("The reference itself was picked.")
    others = {c: g - grids[reference] for c, g in grids.items() if c != reference}
    known = [float(np.nanmax(np.abs(g))) for g in others.values() if np.isfinite(g).any()]
    if not known or condition not in others:
        return Nothing("n/a: no map was measured.")
    most = max(*known, 1e-9)
    return Map(LAYER, LAYER, others[condition], (-most, most), title, zero=True)


# --- the figures of one span of tokens


def ranking_panels(frame: pd.DataFrame, choice: pd.DataFrame) -> list[Lines | Nothing]:
    """Each condition's change by layer, above each control, by the measure that ranks."""
    labels = {"measure": ranking_measure(frame) or "", "variant": MAIN}
    frame, choice = rows_of(frame, **labels), rows_of(choice, **labels)
    return [
        change(own, choice[choice["condition"] == condition], str(condition))
        for condition, own in frame.groupby("condition", sort=False)
    ]


def measure_panels(frame: pd.DataFrame) -> list[Lines]:
    """Every measure by layer."""
    frame = frame[frame["variant"] == MAIN]
    return [
        similarity(frame[frame["measure"] == name], name, _short(title))
        for name, title in SIMILARITY_MEASURES.items()
        if (frame["measure"] == name).any()
    ]


def variant_panels(frame: pd.DataFrame) -> tuple[list[Lines], int]:
    """The measures that variants can change, a row for each variant; how many to a row."""
    names = [name for name in VARIED if (frame["measure"] == name).any()] or list(VARIED)[:1]
    views = [
        similarity(rows_of(frame, variant=variant, measure=name), name, f"{name}, {_short(title)}")
        for variant, title in VARIANTS.items()
        for name in names
    ]
    return views, len(names)


def _short(title: str) -> str:
    return title.split(" over all")[0].split(", mean over")[0]


def map_panels(frame: pd.DataFrame) -> tuple[list[Map | Nothing], int]:
    """Layer x layer in each condition, below it less the reference; how many to a row."""
    conditions = list(dict.fromkeys(frame["condition"]))
    reference, views = conditions[0], []
    for (_, mapped), own in grids(frame).items():
        name = mapped.split(" ")[0]
        views += [layer_map(own, condition, f"{condition}: {name}") for condition in conditions]
        views += [
            difference(own, condition, reference, f"{condition} − {reference}")
            for condition in conditions
        ]
    return views, len(conditions)
