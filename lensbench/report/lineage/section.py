"""The report of a lineage: loss and its phases, induction, and what lenses read, step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import Page, plain_charts
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Axis, Line, Lines, of_values
from lensbench.report.pretraining.section import STEP_AXIS, log2_step
from lensbench.report.section import Section, written
from lensbench.stats.estimates import Estimate

UNTRAINED = "untrained"
READINGS = {"final": "logit", "fitted": "linear"}  # how each lens is called here
_HALF = 0.5  # of the tokens: where a lens reads the model


def lineage(record: Record, name: str) -> Section:
    """All runs of one shape."""
    steps = record.table("lineage")
    band = untrained_band(steps)
    made = tables(record, band)
    views = figures(record, band)
    runs = sorted(set(steps["run"]) - {UNTRAINED})
    text, limitations = written(
        "lineage",
        tables=made,
        figures=views,
        model=record.model,
        band=band,
        n_models=int((steps["run"] != UNTRAINED).sum()),
        n_runs=len(runs),
        findings=list(_findings(made, band)),
        chance_nats=math.log(record.model["d_vocab"]),
    )
    charts = [one for own in views.values() for one in own]
    return Section(
        title=f"{name}: from random weights to the last step",
        tables=made,
        text=text,
        headline=next(_findings(made, band)),
        limitations=limitations,
        figures={key: partial(to_svg, panels, own, 2) for key, own in views.items()},
        page=lambda: Page(f"{name} over training", "Step by step.", (), plain_charts(charts, "")),
        cover="induction",
    )


def untrained_band(steps: pd.DataFrame) -> Estimate:
    """Mean, lowest and highest induction score of the best head over untrained models."""
    drawn = steps.loc[steps["run"] == UNTRAINED, "induction"]
    low, high = float(drawn.min()), float(drawn.max())
    return Estimate(float(drawn.mean()), low, high, len(drawn), len(drawn))


def tables(record: Record, band: Estimate) -> dict[str, Table]:
    """Every number of the report, by name."""
    steps = record.table("lineage")
    steps = steps[steps["run"] != UNTRAINED].drop(columns="seed").reset_index(drop=True)
    steps.insert(4, "perplexity", steps["eval_loss_nats"].map(math.exp))
    return catalogue(
        {
            "steps": ("Step by step", steps),
            "phases": ("Phases of the training loss", _phases(record.table("phases"))),
            "rises": ("When induction leaves the untrained band", rises(steps, band)),
            "lenses": ("Held-out KL and depth of both lenses", _lenses(record)),
            "layers": ("Held-out KL by layer", record.table("lineage_lenses")),
            "heads": ("Heads", record.table("lineage_heads")),
        }
    )


def _phases(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per run x phase, numbers with an interval as one Estimate each."""
    made = frame[["run", "phase"]].copy()
    for name in ("from_step", "slope"):
        cells = zip(*(frame[f"{name}{end}"] for end in ("", "_low", "_high")), strict=True)
        made[name] = pd.Series([_estimate(*cell) for cell in cells], frame.index, dtype=object)
    return made.assign(explained_share=frame["explained"])


def _estimate(value: float, low: float, high: float) -> Estimate:
    if numbers.is_missing(low):
        return Estimate(value, None, None, 1, 1, "the first")
    return Estimate(value, low, high, 1, 1)


def rises(steps: pd.DataFrame, band: Estimate) -> pd.DataFrame:
    """Of each run the first step from which its best head stays above the band, and that head."""
    assert band.high is not None
    rows = []
    for run, own in steps.groupby("run", sort=False):
        own = own.sort_values("step")
        below = own.index[own["induction"] <= band.high]
        after = own if below.empty else own.loc[own["step"] > own["step"][below[-1]]]
        first, last = (after.iloc[0] if len(after) else None), own.iloc[-1]
        rows.append(
            {
                "run": run,
                "rise_step": None if first is None else int(first["step"]),
                "untrained_highest": band.high,
                "induction_at_start": own.iloc[0]["induction"],
                "induction_at_end": last["induction"],
                "block": last["induction_block"],
                "head": last["induction_head"],
                "repeat_gain_nats": last["first_loss_nats"] - last["repeat_loss_nats"],
            }
        )
    return pd.DataFrame(rows).astype({"rise_step": "Int64"})


def _lenses(record: Record) -> pd.DataFrame:
    """One row per run x step: each lens' KL at half depth, and its depth."""
    frame, middle = record.table("lineage_lenses"), record.n_layers // 2
    rows = []
    for (run, step), own in frame.groupby(["run", "step"], sort=False):
        row: dict[str, Any] = {"run": run, "step": step}
        for reading, called in READINGS.items():
            part = own[own["reading"] == reading].sort_values("layer")
            at = part[part["layer"] == middle].iloc[0]
            row[f"{called}_kl_bits"] = _of_documents(at)
            row[f"{called}_depth"] = _depth(part)
        rows.append(row)
    return pd.DataFrame(rows)


def _of_documents(row: pd.Series) -> Estimate:
    """A KL with its interval."""
    n = int(row["n_documents"])
    if numbers.is_missing(row["kl_bits_low"]):
        return Estimate(row["kl_bits"], None, None, n, n, f"{n} documents: too few")
    return Estimate(row["kl_bits"], row["kl_bits_low"], row["kl_bits_high"], n, n)


def _depth(layers: pd.DataFrame) -> float:
    """The first depth from which the lens has the model's top token for half the tokens on."""
    reads = (layers["top1_agreement"] >= _HALF)[::-1].cummin()[::-1]
    return float(layers["depth"][reads].iloc[0])


def figures(record: Record, band: Estimate) -> dict[str, list[Lines]]:
    """Views by the name of their figure."""
    steps, lenses = record.table("lineage"), record.table("lineage_lenses")
    runs = {str(run): own for run, own in steps.groupby("run", sort=False) if run != UNTRAINED}
    loss = [_line(run, own, "eval_loss_nats") for run, own in runs.items()]
    twice = [
        _line(f"{run}, {which}", own, f"{which}_loss_nats")
        for run, own in runs.items()
        for which in ("first", "repeat")
    ]
    heads = [_line(run, own, "induction") for run, own in runs.items()]
    places = heads[0].places or {}
    heads.append(Line(UNTRAINED, [band] * len(places), dash="dash", places=places))
    return {
        "loss": [
            Lines(STEP_AXIS, Axis("nats per token"), {}, loss, "validation loss"),
            Lines(STEP_AXIS, Axis("nats per token"), {}, twice, "random tokens, first and again"),
        ],
        "induction": [Lines(STEP_AXIS, Axis("induction"), {}, heads, "the best head's induction")],
        "lenses": [_kl(lenses, layer) for layer in range(record.n_layers)],
    }


def _line(name: str, rows: pd.DataFrame, column: str) -> Line:
    return Line(name, of_values(rows[column]), places=_places(rows))


def _places(rows: pd.DataFrame) -> dict[float, str]:
    at = log2_step(rows["step"])
    return {float(x): f"step {step}" for x, step in zip(at, rows["step"], strict=True)}


def _kl(lenses: pd.DataFrame, layer: int) -> Lines:
    """Both lenses at one layer, run by run."""
    rows = lenses[lenses["layer"] == layer]
    lines = [
        Line(
            f"{called}, {run}",
            [_of_documents(row) for _, row in own.iterrows()],
            dash="dash" if reading == "final" else "solid",
            places=_places(own),
        )
        for reading, called in READINGS.items()
        for run, own in rows[rows["reading"] == reading].groupby("run", sort=False)
    ]
    return Lines(STEP_AXIS, Axis("KL(model ‖ lens) (bits)"), {}, lines, f"layer {layer}")


def _findings(made: dict[str, Table], band: Estimate) -> Iterator[str]:
    """What became of each run, a sentence each."""
    steps, lenses = made["steps"].frame, made["lenses"].frame
    for _, rise in made["rises"].frame.iterrows():
        own = steps[steps["run"] == rise["run"]].sort_values("step")
        first, last = own.iloc[0], own.iloc[-1]
        when = (
            "never leaves the untrained band for good"
            if numbers.is_missing(rise["rise_step"])
            else f"is above the untrained band from step {rise['rise_step']} on"
        )
        end = lenses[(lenses["run"] == rise["run"]) & (lenses["step"] == last["step"])].iloc[0]
        linear, logit = (
            numbers.estimate(end[f"{called}_kl_bits"], "bits") for called in ("linear", "logit")
        )
        yield markdown(
            f"{rise['run']}: validation loss {numbers.number(first['eval_loss_nats'])} nats at "
            f"step {first['step']}, {numbers.number(last['eval_loss_nats'])} at step "
            f"{last['step']}; induction of the best head {numbers.number(last['induction'])} "
            f"(untrained {numbers.estimate(band)}), which {when}; at half depth the linear lens "
            f"is {linear} bits from the model, the logit lens {logit}"
        )
