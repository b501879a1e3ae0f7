"""The report of a word's senses: at which layer they part, beside words of one sense."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.records.schema.text.embeddings import READ, SPLITS
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import Page, plain_charts
from lensbench.report.kit.table import Table, catalogue, layers_shown
from lensbench.report.kit.views import Axis, Line, Lines, of_values
from lensbench.report.section import Section, written
from lensbench.report.senses.layers import best_layer, by_layer, difference_by_layer, parted

_DASH = {"trained": "solid", "untrained": "dash"}
_ROUNDING = 1e-12  # of a cosine in float64
_CHANCE = {"accuracy": 0.5, "separation": 0.0}


def senses(record: Record, name: str) -> Section:
    """One contextual model's record."""
    made = tables(record)
    views = curves(made, record.n_layers)
    words = record.table("senses").groupby("split")["word"].nunique()
    text, limitations = written(
        "senses",
        tables=made,
        model=record.model,
        read=record.manifest["read"],
        n_words={split: int(words.get(split, 0)) for split in SPLITS},
        splits=SPLITS,
        conditions=READ,
        shown_layers=_shown(made["layers"]),
        shown_beside=layers_shown(_centred(made["beside"])),
    )
    return Section(
        title=f"{name}: where the senses of a word part",
        tables=made,
        text=text,
        headline=headline(made["parted"].frame),
        limitations=limitations,
        figures={"layers": partial(to_svg, panels, views, 2)},
        page=lambda: Page(
            f"{name}: senses of a word", "By layer.", (), plain_charts(views, "Dashed: untrained.")
        ),
        cover="layers",
    )


def tables(record: Record) -> dict[str, Table]:
    """Every number of the report, by name."""
    rows = record.table("senses")
    real = rows["separation"].abs() > _ROUNDING
    rows = rows.assign(separation=rows["separation"].where(real, 0.0))
    layers, beside = by_layer(rows), difference_by_layer(rows)
    return catalogue(
        {
            "parted": ("Where the senses part", parted(layers, beside)),
            "layers": ("Accuracy and separation by layer", layers),
            "beside": ("Senses beside subjects, by layer", beside),
            "words": ("Words at the layer where senses part most", words_at(rows, layers)),
            "cones": ("Mean cosine of different words", record.table("sense_cones")),
        }
    )


def words_at(rows: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Every word of the trained model at the layer with the highest accuracy of senses."""
    own = (layers["condition"] == "trained") & (layers["correction"] == "centred")
    best = best_layer(layers[own])
    here = (rows["condition"] == "trained") & (rows["correction"] == "centred")
    found = rows[here & (rows["layer"] == best)]
    kept = ["split", "word", "layer", "separation", "accuracy", "n_sentences"]
    return found[kept].sort_values(["split", "accuracy"], ascending=[False, True], kind="stable")


def curves(made: dict[str, Table], n_layers: int) -> list[Lines]:
    """Accuracy and separation over the layers, after centring: each split, and untrained senses."""
    frame = _centred(made["layers"]).frame
    found = []
    for measure, title in (
        ("accuracy", "accuracy (nearest centroid)"),
        ("separation", "separation (cosine)"),
    ):
        lines = []
        for (condition, split), own in frame.groupby(["condition", "split"], sort=False):
            if condition == "untrained" and split != "senses":
                continue
            called = f"{split}{', untrained' if condition == 'untrained' else ''}"
            lines.append(Line(called, own[measure].tolist(), dash=_DASH[str(condition)]))  # type: ignore[arg-type]
        places = {layer / n_layers: f"layer {layer}" for layer in range(n_layers + 1)}
        chance = of_values([_CHANCE[measure]] * (n_layers + 1))
        lines.append(Line("chance", chance, dash="dot"))
        y = Axis(title, percent=measure == "accuracy")
        found.append(Lines(Axis("depth", percent=True), y, places, lines, title))
    return found


def _centred(table: Table) -> Table:
    frame = table.frame
    return Table(table.name, table.title, frame[frame["correction"] == "centred"])


def _shown(layers: Table) -> pd.DataFrame:
    """Senses of the trained model after centring, at layers evenly over the depth."""
    frame = _centred(layers).frame
    own = frame[(frame["condition"] == "trained") & (frame["split"] == "senses")]
    kept = own.drop(columns=["condition", "split", "correction"])
    return layers_shown(Table(layers.name, layers.title, kept))


def headline(found: pd.DataFrame) -> str:
    """The accuracy at the best layer, and from which layer it is beyond that of subjects."""
    rows: list[dict[str, Any]] = found[found["correction"] == "centred"].to_dict("records")  # type: ignore[assignment]
    if not rows:
        return ""
    (row,) = rows
    best = numbers.estimate(row["senses_accuracy"], "accuracy")
    since = row["beyond_subjects_from_layer"]
    told = "at no layer" if numbers.is_missing(since) else f"from layer {int(since)} on"
    return markdown(
        f"Senses of {row['senses_accuracy'].n} words told apart at layer {row['best_layer']}: "
        f"{best}; beyond subjects {told}"
    )
