"""The report of a lineage: loss and its phases, induction, and what lenses read, step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import Page, plain_charts
from lensbench.report.kit.table import Table, catalogue, layers_shown
from lensbench.report.kit.views import Axis, Dash, Line, Lines, of_values
from lensbench.report.lineage.heads import (
    UNTRAINED,
    counts,
    name_curves,
    named,
    named_since,
    score_curves,
    untrained_band,
)
from lensbench.report.pretraining.section import STEP_AXIS, places_of
from lensbench.report.section import Section, written
from lensbench.stats.estimates import Estimate, cells_of, of_record, within

READINGS = {"final": "logit", "fitted": "linear"}  # how each lens is called here
INDUCTION = "induction"  # the name of such a head
OF_RUNS = ("heads", "names")  # figures with a column of panels for each run
LOSSES = {
    "eval_loss_nats": "validation loss",
    "first_loss_nats": "random tokens, the first time",
    "repeat_loss_nats": "random tokens that come again",
}
COLUMNS = {"loss": 3}
_ROWS = 9  # of each run that stand in the text
_HALF = 0.5  # of the tokens: where a lens reads the model


def lineage(record: Record, name: str) -> Section:
    """All runs of one shape."""
    steps = record.table("lineage")
    band = untrained_band(record.table("lineage_heads"), "induction")
    made = tables(record, band)
    views = figures(record, made, band)
    runs = sorted(set(steps["run"]) - {UNTRAINED})
    text, limitations = written(
        "lineage",
        tables=made,
        figures=views,
        model=record.model,
        band=band,
        n_models=int((steps["run"] != UNTRAINED).sum()),
        n_runs=len(runs),
        middle=_middle(record.n_layers),
        trained_on=_trained_on(record),
        curriculum=any(run["repeated_share"] for run in record.model["runs"].values()),
        findings=list(_findings(made, band, record.n_layers)),
        shown={key: _some(made[key]) for key in ("steps", "lenses")},
        chance_nats=math.log(record.model["d_vocab"]),
    )
    charts = [one for own in views.values() for one in own]
    return Section(
        title=f"{name}: from random weights to the last step",
        tables=made,
        text=text,
        headline=_headline(made),
        limitations=limitations,
        figures={
            key: partial(to_svg, panels, own, len(runs) if key in OF_RUNS else COLUMNS.get(key, 2))
            for key, own in views.items()
        },
        page=lambda: Page(f"{name} over training", "Step by step.", (), plain_charts(charts, "")),
        cover="induction",
    )


def tables(record: Record, band: Estimate) -> dict[str, Table]:
    """Every number of the report, by name."""
    names = record.table("lineage_names")
    steps = record.table("lineage")
    steps = steps[steps["run"] != UNTRAINED].drop(columns="seed").reset_index(drop=True)
    steps.insert(4, "perplexity", steps["eval_loss_nats"].map(math.exp))
    return catalogue(
        {
            "steps": ("Step by step", steps),
            "phases": ("Phases of the training loss", _phases(record.table("phases"))),
            "rises": ("When induction rises", rises(steps, names, band)),
            "lenses": ("Held-out KL and depth of both lenses", _lenses(record)),
            "names": ("Heads that have a name at the last step", named(names)),
            "classes": ("How many heads have each name", counts(names)),
            "why": ("Every head's name at every step", names),
            "layers": ("Held-out KL by layer", record.table("lineage_lenses")),
            "heads": ("Heads", record.table("lineage_heads")),
        }
    )


def _trained_on(record: Record) -> list[str]:
    """On what: a curriculum is said, since it decides when induction forms."""
    found: dict[tuple[str, float], list[str]] = {}
    for run, facts in record.model["runs"].items():
        found.setdefault((facts["corpus"], facts["repeated_share"]), []).append(run)
    return [
        markdown(f"{', '.join(runs)}: trained on {corpus}{_curriculum(share)}.")
        for (corpus, share), runs in found.items()
    ]


def _curriculum(share: float) -> str:
    if not share:
        return ""
    return (
        f", where {share:.0%} of the sequences are a curriculum: one passage of the text, four "
        "times or more, so that it pays to look for what followed before. Held-out text has none"
    )


def _some(table: Table) -> pd.DataFrame:
    """Some rows of each run, evenly, its ends included."""
    runs = table.frame.groupby("run", sort=False)
    return pd.concat(layers_shown(Table(table.name, table.title, own), _ROWS) for _, own in runs)


def _phases(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per run x phase, numbers with an interval as one Estimate each."""
    made = frame[["run", "phase"]].copy()
    for name in ("from_step", "slope"):
        cells = zip(*cells_of(frame, name), strict=True)
        made[name] = pd.Series(
            [of_record(cell, 1, "no phase", "the first") for cell in cells],
            frame.index,
            dtype=object,
        )
    return made.assign(explained_share=frame["explained"])


def rises(steps: pd.DataFrame, names: pd.DataFrame, band: Estimate) -> pd.DataFrame:
    """Of each run the step from which its best head stays above the band, that from which a head is
    named after it, and the best head at the end."""
    assert band.high is not None
    rows, named = [], named_since(names, INDUCTION)
    for run, own in steps.groupby("run", sort=False):
        own = own.sort_values("step")
        below = own.index[own["induction"] <= band.high]
        after = own if below.empty else own.loc[own["step"] > own["step"][below[-1]]]
        first, last = (after.iloc[0] if len(after) else None), own.iloc[-1]
        rows.append(
            {
                "run": run,
                "above_band_step": None if first is None else int(first["step"]),
                "named_step": named.get(str(run)),
                "untrained_highest": band.high,
                "induction_at_start": own.iloc[0]["induction"],
                "induction_at_end": last["induction"],
                "block": last["induction_block"],
                "head": last["induction_head"],
                "repeat_gain_nats": last["first_loss_nats"] - last["repeat_loss_nats"],
            }
        )
    return pd.DataFrame(rows).astype({"above_band_step": "Int64", "named_step": "Int64"})


def _lenses(record: Record) -> pd.DataFrame:
    """One row per run x step: each lens' KL in the middle, and its depth."""
    frame, middle = record.table("lineage_lenses"), _middle(record.n_layers)
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
    few = f"{n} documents: too few"
    found = of_record(cells_of(row, "kl_bits"), n, "not measured", few)
    return within(found, most=math.inf)  # as no KL is below 0


def _depth(layers: pd.DataFrame) -> float:
    """The first depth from which the lens has the model's top token for half the tokens on."""
    reads = (layers["top1_agreement"] >= _HALF)[::-1].cummin()[::-1]
    return float(layers["depth"][reads].iloc[0])


def figures(record: Record, made: Mapping[str, Table], band: Estimate) -> dict[str, list[Lines]]:
    """Views by the name of their figure."""
    steps, lenses = record.table("lineage"), record.table("lineage_lenses")
    runs = {str(run): own for run, own in steps.groupby("run", sort=False) if run != UNTRAINED}
    heads = [_line(run, own, "induction") for run, own in runs.items()]
    places = heads[0].places or {}
    heads.append(Line(UNTRAINED, [band] * len(places), dash="dash", places=places))
    return {
        "loss": [
            Lines(
                STEP_AXIS,
                Axis("nats per token"),
                {},
                [_line(run, own, column) for run, own in runs.items()],
                title,
            )
            for column, title in LOSSES.items()
        ],
        "induction": [Lines(STEP_AXIS, Axis("induction"), {}, heads, "the best head's induction")],
        "heads": score_curves(record.table("lineage_heads")),
        "names": name_curves(record.table("lineage_names")),
        "lenses": [_kl(lenses, layer) for layer in range(record.n_layers)],
        "depths": [_depths(made["lenses"].frame)],
    }


def _line(name: str, rows: pd.DataFrame, column: str, dash: Dash = "solid") -> Line:
    return Line(name, of_values(rows[column]), dash=dash, places=places_of(rows["step"]))


def _kl(lenses: pd.DataFrame, layer: int) -> Lines:
    """Both lenses at one layer, run by run."""
    rows = lenses[lenses["layer"] == layer]
    lines = [
        Line(
            f"{called}, {run}",
            [_of_documents(row) for _, row in own.iterrows()],
            dash="dash" if reading == "final" else "solid",
            places=places_of(own["step"]),
        )
        for reading, called in READINGS.items()
        for run, own in rows[rows["reading"] == reading].groupby("run", sort=False)
    ]
    return Lines(STEP_AXIS, Axis("KL(model ‖ lens) (bits)"), {}, lines, f"layer {layer}")


def _depths(lenses: pd.DataFrame) -> Lines:
    """From which depth each lens reads the model, run by run."""
    lines = [
        _line(f"{called}, {run}", own, f"{called}_depth", "dash" if called == "logit" else "solid")
        for called in READINGS.values()
        for run, own in lenses.groupby("run", sort=False)
    ]
    return Lines(STEP_AXIS, Axis("depth", percent=True), {}, lines, "depth of both lenses")


def _middle(n_layers: int) -> int:
    """The layer at half depth, or the one below it."""
    return n_layers // 2


def _headline(made: dict[str, Table]) -> str:
    """How many runs end with an induction head, since when, and their losses."""
    since, steps = made["rises"].frame["named_step"], made["steps"].frame
    losses = steps[steps["step"] == steps.groupby("run")["step"].transform("max")]
    at_end = losses["eval_loss_nats"]
    ends = (numbers.number(at_end.min()), numbers.number(at_end.max()))
    named = since.dropna()
    when = f", named since step {named.min()} to {named.max()}" if len(named) else ""
    return (
        f"runs with an induction head at the end: {len(named)} of {len(since)}{when}; "
        f"validation loss there {' to '.join(dict.fromkeys(ends))} nats"
    )


def _findings(made: dict[str, Table], band: Estimate, n_layers: int) -> Iterator[str]:
    """What became of each run, a sentence each."""
    steps, lenses = made["steps"].frame, made["lenses"].frame
    for _, rise in made["rises"].frame.iterrows():
        own = steps[steps["run"] == rise["run"]].sort_values("step")
        first, last = own.iloc[0], own.iloc[-1]
        above, called = (rise[key] for key in ("above_band_step", "named_step"))
        when = (
            "never leaves the untrained band for good"
            if numbers.is_missing(above)
            else f"is above the untrained band from step {above} on"
        )
        named_so = (
            "no head is an induction head by name at the end"
            if numbers.is_missing(called)
            else f"a head is an induction head by name from step {called} on"
        )
        end = lenses[(lenses["run"] == rise["run"]) & (lenses["step"] == last["step"])].iloc[0]
        linear, logit = (
            numbers.estimate(end[f"{called}_kl_bits"], "bits") for called in ("linear", "logit")
        )
        yield markdown(
            f"{rise['run']}: validation loss {numbers.number(first['eval_loss_nats'])} nats at "
            f"step {first['step']}, {numbers.number(last['eval_loss_nats'])} at step "
            f"{last['step']}; induction of the best head {numbers.number(last['induction'])} "
            f"(untrained {numbers.estimate(band)}), which {when}; {named_so}; "
            f"at layer {_middle(n_layers)} of {n_layers} the linear lens "
            f"is {linear} bits from the model, the logit lens {logit}"
        )
