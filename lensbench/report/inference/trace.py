"""The report of a traced run: the responses, and the residual stream under them by depth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from lensbench.records.schema.generation import SPANS
from lensbench.report.inference import section as inference
from lensbench.report.inference.section import headline
from lensbench.report.kit.figures import COLOURS, DASHES, WIDTH, depth_axis, ribbon, to_svg
from lensbench.report.kit.tables import Table
from lensbench.report.load import SecondRecord
from lensbench.stats.bootstrap import clustered_bootstrap

NORMS = {"token_norm": "mean_norm", "norm_of_mean": "norm_of_mean"}  # what -> its column

__all__ = ["files", "headline", "limitations", "norms_figure", "tables"]


def tables(record: SecondRecord) -> dict[str, Table]:
    """The tables of the responses, and the norms by layer."""
    norms = Table(
        "norms",
        "Residual stream by layer",
        norms_by_layer(record),
        "L2 norms, means over prompts. Token norm: averaged over the span's tokens. Norm of the "
        "mean: of the averaged vector; the closer to the token norm, the more the tokens agree.",
    )
    return inference.tables(record) | {norms.name: norms}


def norms_by_layer(record: SecondRecord) -> pd.DataFrame:
    """Per layer and span, over prompts: the mean token norm and the norm of the mean."""
    cells = record.tables["activations"]
    cells = cells.assign(norm_of_mean=[_norm(mean) for mean in cells["mean"]])
    rows = []
    for layer, own in cells.groupby("layer", sort=True):
        row: dict[str, object] = {"layer": layer, "depth": own["depth"].iloc[0]}
        for name, column in NORMS.items():
            for span in SPANS:
                values = own.loc[own["span"] == span, column]
                row[f"{span}_{name}"] = clustered_bootstrap(values, nothing="no tokens")
        rows.append(row)
    columns = [f"{span}_{name}" for name in NORMS for span in SPANS]
    return pd.DataFrame(rows, columns=["layer", "depth", *columns])


def _norm(mean: object) -> float:
    """L2 norm of a mean vector; NaN where there was no token to average."""
    return np.nan if mean is None else float(np.linalg.norm(np.asarray(mean, dtype=np.float64)))


def files(record: SecondRecord, made: dict[str, Table]) -> Iterator[tuple[str, bytes]]:
    """The figures of the responses and of the norms."""
    yield from inference.files(record, made)
    if len(made["norms"].frame):
        yield "figures/norms.svg", to_svg(norms_figure, made["norms"].frame)


def norms_figure(frame: pd.DataFrame) -> Figure:
    """Both norms by depth, prompt and generated tokens apart, on logarithmic axes."""
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    panels = {"token_norm": "mean norm of a token", "norm_of_mean": "norm of the mean"}
    for axis, (column, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for i, span in enumerate(SPANS):
            curve = frame[f"{span}_{column}"]
            ribbon(axis, frame["depth"], curve, COLOURS[i], f"{span} tokens", DASHES[i])
        depth_axis(axis, title)
        axis.set_yscale("log")
        for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            which(LogFormatter(minor_thresholds=(2, 0.5)))  # plain numbers, no maths markup
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    return figure


def limitations(record: SecondRecord, made: dict[str, Table]) -> list[str]:
    """Those of the responses, and prompts that have no generated token to trace."""
    lines = inference.limitations(record, made)
    cells = record.tables["activations"]
    silent = cells[(cells["span"] == "generated") & (cells["n_tokens"] == 0)]["prompt_id"].nunique()
    if silent:
        lines.append(f"No generated token to trace in {silent} responses: they count in no mean.")
    return lines
