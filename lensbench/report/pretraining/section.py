"""The report of one training of a small model: its loss, and the models that it kept."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd

from lensbench.records.record import Record
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import Page, plain_charts
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Axis, Line, Lines, of_values
from lensbench.report.section import Section, written

STEP_AXIS = Axis("log2 of the step (-1: step 0)")


def pretraining(record: Record, name: str) -> Section:
    """One run."""
    log = record.table("training").sort_values("step", kind="stable", ignore_index=True)
    made = tables(record, log)
    views = curves(log)
    last = made["kept"].frame.iloc[-1]
    text, limitations = written(
        "pretraining",
        tables=made,
        model=record.model,
        settings=record.settings,
        corpus=record.manifest["corpus"],
        first=made["kept"].frame.iloc[0],
        last=last,
    )
    loss = numbers.number(last["validation_loss_nats"])
    return Section(
        title=f"{name}: a small model from random weights",
        tables=made,
        text=text,
        headline=f"validation loss {loss} nats at step {last['step']}, "
        f"perplexity {numbers.number(last['perplexity'])}",
        limitations=limitations,
        figures={"loss": partial(to_svg, panels, views)},
        page=lambda: Page(f"{name}: training", "The log of one run.", (), plain_charts(views, "")),
        cover="loss",
    )


def tables(record: Record, log: pd.DataFrame) -> dict[str, Table]:
    """The models that are kept with their validation loss, and the whole log."""
    evaluated = log.dropna(subset=["eval_loss_nats"]).set_index("step")["eval_loss_nats"]
    step_tokens = record.settings["batch_size"] * record.settings["context"]
    kept = pd.DataFrame(
        {
            "step": kept["step"],
            "tokens": kept["step"] * step_tokens,
            "validation_loss_nats": evaluated[kept["step"]],
            "perplexity": math.exp(evaluated[kept["step"]]),
            "folder": kept["folder"],
        }
        for kept in record.manifest["kept"]
    )
    return catalogue({"kept": ("Models that are kept", kept), "training": ("Training log", log)})


def log2_step(steps: pd.Series) -> np.ndarray:
    """Where a step stands on a logarithmic axis; -1 is before the first."""
    return np.where(steps > 0, np.log2(np.maximum(steps.to_numpy(dtype=float), 1)), -1.0)


def places_of(steps: pd.Series) -> dict[float, str]:
    """Where steps stand on such an axis -> what hovering calls them."""
    return {float(x): f"step {step}" for x, step in zip(log2_step(steps), steps, strict=True)}


def curves(log: pd.DataFrame) -> list[Lines]:
    """Loss, gradient norm and speed by step."""
    loss = [
        _line(log, "loss_nats", "training"),
        _line(log, "eval_loss_nats", "validation"),
    ]
    return [
        Lines(STEP_AXIS, Axis("loss (nats per token)"), {}, loss, "loss (nats per token)"),
        Lines(STEP_AXIS, Axis("gradient norm"), {}, [_line(log, "grad_norm", "")], "gradient norm"),
    ]


def _line(log: pd.DataFrame, column: str, name: str) -> Line:
    rows = log.dropna(subset=[column]).drop_duplicates("step")
    return Line(name, of_values(rows[column]), places=places_of(rows["step"]))
