"""The report of a fitted lens: what it is worth on held-out text, beside its controls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import Page, plain_charts
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Axis, Dash, Line, Lines, by_depth
from lensbench.report.section import Section, written
from lensbench.stats.estimates import Estimate, cells_of, of_record, within

READINGS = {  # how each is called in a report, and drawn
    "final": "logit lens",
    "fitted": "fitted lens",
    "linear": "linear lens of the same text",
    "shifted": "fitted lens with a shift",
    "calibration": "scale and bias alone",
    "shuffled": "fitted to other tokens' targets",
    "untrained": "fitted to an untrained model's states",
}
_DASHES: dict[str, Dash] = dict(
    zip(READINGS, ("dash", "solid", "dash", "solid", "dashdot", "dot", "dashdot"), strict=True)
)
_LENSES = READINGS | {"random": "a rotation by chance"}  # whose causal fidelity is told
_BY_DOCUMENT = (
    "kl_bits",
    "top1_agreement",
    "marginal_kl_bits",
    "calibration_error",
    "calibration_share",
)
_ENDS = {  # what each can be; the share of a gain can be anything
    "kl_bits": (0.0, math.inf),
    "top1_agreement": (0.0, 1.0),
    "marginal_kl_bits": (0.0, math.inf),
    "calibration_error": (0.0, 1.0),
}
_MEASURES = {
    "kl_bits": "KL(model ‖ lens) (bits)",
    "top1_agreement": "same top token as the model",
}
_NO_GAIN = "no gain over the logit lens, as far as can be told"
_SENTENCE = "Means over held-out tokens; intervals over documents."
_DEPTH = Axis("depth", percent=True)


def fit(record: Record, name: str) -> Section:
    """One lens."""
    made = tables(record)
    views = curves(made["quality"].frame)
    text, limitations = written(
        "fit",
        tables=made,
        model=record.manifest["model"],
        settings=record.settings,
        corpus=record.manifest["corpus"],
        also=record.manifest.get("also"),
        training=record.manifest.get("training", []),
        jacobian=record.manifest.get("jacobian"),
        middle=_middle(made["quality"].frame, record.n_layers),
        there=_middle(made["also"].frame, record.n_layers) if "also" in made else {},
    )
    method = record.settings["method"]
    return Section(
        title=f"{name}: a {method} lens",
        tables=made,
        text=text,
        headline=headline(made["quality"].frame, record.n_layers, method),
        limitations=limitations,
        figures={"quality": partial(to_svg, panels, views)},
        page=partial(_page, name, method, views),
        cover="quality",
    )


def tables(record: Record) -> dict[str, Table]:
    """Every number of the report, by name."""
    documents = record.table("fit_documents")
    parts = documents.groupby("part", sort=False)["n_tokens"].agg(["size", "sum"]).reset_index()
    parts.columns = pd.Index(["part", "documents", "tokens"])
    measured = quality(record.table("fit_quality"))
    shown = {
        "kl": ("Held-out KL by layer", kl_by_layer(measured)),
        "quality": ("Held-out quality by layer", measured.drop(columns="calibration_share")),
        "calibration": ("How much is scale and bias alone", calibration(measured)),
        "corpus": ("What was read of the corpus", parts),
    }
    if "fit_also" in record.tables:
        title = f"On another corpus, {record.manifest['also']['name']}"
        there = quality(record.table("fit_also"))
        shown["also_kl"] = (title, kl_by_layer(there))
        shown["also"] = (title, there.drop(columns="calibration_share"))
    if "fit_fidelity" in record.tables:
        shown["fidelity"] = ("Causal fidelity", fidelity(record.table("fit_fidelity")))
    if training := record.manifest.get("training"):
        columns = ["layer", "start_kl_bits", "kl_bits", "steps", "broken"]
        shown["training"] = ("Training by layer", pd.DataFrame(training, columns=columns))
    return catalogue(shown)


def quality(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per reading x layer, numbers with an interval as one Estimate each."""
    frame = frame.drop(columns=["model"])
    for column in _BY_DOCUMENT:
        values = zip(*cells_of(frame, column), frame["n_documents"], strict=True)
        limits = _ENDS.get(column, (-math.inf, math.inf))
        cells = [
            within(of_record(ends, n, _NO_GAIN, f"{n} documents: too few for an interval"), *limits)
            for *ends, n in values
        ]
        frame[column] = pd.Series(cells, frame.index, dtype=object)
        frame = frame.drop(columns=[f"{column}_low", f"{column}_high"])
    return frame.assign(reading=frame["reading"].map(READINGS))


def kl_by_layer(quality: pd.DataFrame) -> pd.DataFrame:
    """One row per layer, a column for each reading's KL."""
    frame = quality[["layer", "depth"]].drop_duplicates().reset_index(drop=True)
    for key, name in READINGS.items():
        rows = quality[quality["reading"] == name].set_index("layer")["kl_bits"]
        if len(rows):
            frame[f"{key}_bits"] = frame["layer"].map(rows)
    return frame


def calibration(quality: pd.DataFrame) -> pd.DataFrame:
    """By layer below the last, how much of the fitted lens' gain is scale and bias, and a verdict.

    Most of it is where the whole interval lies above one half.
    """
    below = quality["layer"] < quality["layer"].max()
    rows = quality[below & (quality["reading"] == READINGS["fitted"])]
    frame = rows[["layer", "depth", "calibration_share"]].reset_index(drop=True)
    return frame.assign(verdict=frame["calibration_share"].map(share_verdict))


def fidelity(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per lens x layer; an interval is over directions."""
    made = frame[["reading", "layer", "depth"]].assign(reading=frame["reading"].map(_LENSES))
    for column in ("spearman", "partial_spearman"):
        values = zip(*cells_of(frame, column), frame["n_directions"], strict=True)
        cells = [_correlation(*cell) for cell in values]
        made[column] = pd.Series(cells, frame.index, dtype=object)
    return made.assign(n_directions=frame["n_directions"], n_tokens=frame["n_tokens"])


def _correlation(value: float, low: float, high: float, n: int) -> Estimate:
    why = "the same order: no interval" if abs(value) > 1 - 1e-9 else "no interval"
    nothing, few = "all directions do the same", f"{n} directions, {why}"
    return of_record((value, low, high), n, nothing, few)


def share_verdict(share: Estimate) -> str:
    """Whether a gain is scale and bias for the most part."""
    if share.value is None:
        return "no gain" if share.reason == _NO_GAIN else "cannot tell"
    if share.low is None or share.high is None:
        return "cannot tell"
    if share.low > 0.5:
        return "calibration only"
    return "translation" if share.high < 0.5 else "cannot tell"


def _middle(frame: pd.DataFrame, n_layers: int) -> Mapping[str, Estimate]:
    """Every reading's KL at half depth."""
    rows = frame[frame["layer"] == n_layers // 2].set_index("reading")
    return {name: rows["kl_bits"][name] for name in READINGS.values() if name in rows.index}


def headline(frame: pd.DataFrame, n_layers: int, method: str) -> str:
    """The fitted lens against the logit lens at half depth."""
    middle = _middle(frame, n_layers)
    fitted, logit = (numbers.estimate(middle[READINGS[r]], "bits") for r in ("fitted", "final"))
    return markdown(
        f"At half depth the {method} lens is {fitted} bits from the model on text that it has not "
        f"seen, the logit lens {logit}"
    )


def curves(frame: pd.DataFrame) -> list[Lines]:
    """Each measure by depth, a line for each reading."""
    places = by_depth(frame.drop_duplicates("layer"))
    return [
        Lines(
            _DEPTH,
            Axis(title, percent=measure == "top1_agreement"),
            places,
            [
                Line(name, _at_every_layer(frame, name, measure), dash=_DASHES[key])
                for key, name in READINGS.items()
                if name in set(frame["reading"])
            ],
            title,
        )
        for measure, title in _MEASURES.items()
    ]


def _at_every_layer(frame: pd.DataFrame, reading: str, measure: str) -> list[Estimate]:
    own = frame[frame["reading"] == reading].set_index("layer")[measure]
    missing = Estimate(None, None, None, 0, 0, "at the last layer nothing is mapped")
    return [own.get(layer, missing) for layer in frame["layer"].drop_duplicates()]


def _page(model: str, method: str, views: list[Lines]) -> Page:
    sentence = "How far each reading of a layer is from the model, on text it was not fitted to."
    return Page(f"{model}: a {method} lens", sentence, (), plain_charts(views, _SENTENCE))
