"""The report of a traced run: the responses, and the residual stream under them by depth."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from lensbench.records.record import Record
from lensbench.records.schema.generation import SPANS
from lensbench.report.inference.section import inference, prompt_picker, text_of
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import WHOLE, Page, chart
from lensbench.report.kit.table import Table
from lensbench.report.kit.views import Axis, Line, Lines, by_depth, of_values
from lensbench.report.section import Section
from lensbench.stats.estimates import clustered_estimate

# what -> its title, and its column in the record
NORMS = {
    "token_norm": ("mean norm of a token", "mean_norm"),
    "norm_of_mean": ("norm of the mean", "norm_of_mean"),
}
_DEPTH = Axis("depth", percent=True)


def trace(record: Record, name: str) -> Section:
    """The report of the responses, and the norms by layer."""
    whole = inference(record, name)
    cells = traced(record)
    norms = Table("norms", "Residual stream by layer", norms_by_layer(cells))
    made = {**whole.tables, norms.name: norms}
    views = [norm_by_depth(norms.frame, name) for name in NORMS]
    drawn = {"norms": partial(to_svg, panels, views)} if len(norms.frame) else {}
    return replace(
        whole,
        tables=made,
        text=text_of("inference/trace.md.j2", record, made),
        limitations=[*whole.limitations, *_silent(cells)],
        figures={**whole.figures, **drawn},
        page=partial(traced_page, whole, record, norms.frame, cells),
    )


def traced(record: Record) -> pd.DataFrame:
    """One row per prompt, layer and span, with the norm of its mean vector."""
    cells = record.table("activations")
    return cells.assign(norm_of_mean=[_norm(mean) for mean in cells["mean"]])


def _norm(mean: object) -> float:
    """L2 norm of a mean vector; NaN where there was no token to average."""
    return np.nan if mean is None else float(np.linalg.norm(np.asarray(mean, dtype=np.float64)))


def norms_by_layer(cells: pd.DataFrame) -> pd.DataFrame:
    """Per layer and span, over prompts: the mean token norm and the norm of the mean."""
    rows = []
    for layer, own in cells.groupby("layer", sort=True):
        row: dict[str, object] = {"layer": layer, "depth": own["depth"].iloc[0]}
        for name, (_, column) in NORMS.items():
            for span in SPANS:
                values = own.loc[own["span"] == span, column]
                row[f"{span}_{name}"] = clustered_estimate(values, nothing="no tokens")
        rows.append(row)
    columns = [f"{span}_{name}" for name in NORMS for span in SPANS]
    return pd.DataFrame(rows, columns=["layer", "depth", *columns])


def norm_by_depth(frame: pd.DataFrame, name: str) -> Lines:
    """A norm by depth, prompt and generated tokens apart, on a logarithmic axis."""
    title, _ = NORMS[name]
    lines = [
        Line(f"{span} tokens", list(frame[f"{span}_{name}"]), dash=dash)  # type: ignore[arg-type]
        for span, dash in zip(SPANS, ("solid", "dash"), strict=True)
    ]
    return Lines(_DEPTH, Axis(title, log=True), by_depth(frame), lines, title)


def traced_page(section: Section, record: Record, norms: pd.DataFrame, cells: pd.DataFrame) -> Page:
    """The page of the responses with the norms beneath."""
    assert section.page is not None
    page, prompt = section.page(), prompt_picker(record.table("responses"))
    by_prompt = dict(list(cells.groupby("prompt_id")))
    places = by_depth(norms)

    def view(name: str, item: str) -> Lines:
        if item == WHOLE:
            return norm_by_depth(norms, name)
        own = by_prompt.get(item, cells.head(0))
        title, column = NORMS[name]
        lines = []
        for span in SPANS:
            values = own[own["span"] == span].set_index("depth")[column].reindex(list(places))
            lines.append(Line(f"{span} tokens", of_values(values, "no tokens")))
        return Lines(_DEPTH, Axis(title, log=True), places, lines)

    made = [
        chart(f"Residual stream: {title}", "", [prompt], partial(view, name))
        for name, (title, _) in NORMS.items()
    ]
    return replace(page, pickers=(prompt,), charts=[*page.charts, *made])


def _silent(cells: pd.DataFrame) -> list[str]:
    """Prompts that have no generated token to trace."""
    none = cells[(cells["span"] == "generated") & (cells["n_tokens"] == 0)]
    n = none["prompt_id"].nunique()
    return [f"No generated token to trace in {n} responses: they count in no mean."] if n else []
