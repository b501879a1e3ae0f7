"""The report of a transfer study: may a lens of one variant of a model be used on the others?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import Page, plain_charts
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Axis, Dash, Line, Lines, by_depth
from lensbench.report.section import Section, written
from lensbench.stats.estimates import Estimate, summed_difference, summed_estimate, within
from lensbench.stats.intervals import ratio
from lensbench.stats.resampling import Floats

ALLOWED_LOSS = 0.1  # of what a lens of the variant's own gains over the logit lens
READINGS: dict[str, tuple[str, Dash]] = {
    "own": ("a lens of its own", "solid"),
    "first": ("the first variant's lens", "dash"),
    "final": ("logit lens", "dot"),
}
_KL = "KL(variant ‖ lens) (bits)"
_COMPARED = [*(f"{reading}_kl_bits" for reading in READINGS), "loss_bits"]
_SENTENCE = "Means over held-out tokens; intervals over documents."


def transfer(record: Record, name: str) -> Section:
    """One study."""
    rows = record.table("transfer")
    made = tables(rows)
    views = list(curves(made["layers"].frame))
    first = str(next(iter(rows["model"]), name))
    figures = {"transfer": partial(to_svg, panels, views)} if views else {}
    text, limitations = written(
        "transfer",
        figures=figures,
        tables=made,
        first=first,
        allowed=ALLOWED_LOSS,
        verdicts=made["variants"].frame.dropna(subset=["use"]).to_dict("records"),
        n_documents=rows["document"].nunique(),
    )
    return Section(
        title=f"{name}: one lens on other variants",
        tables=made,
        text=text,
        headline=headline(made["variants"].frame, first),
        limitations=limitations,
        figures=figures,
        page=partial(_page, name, views) if views else None,
        cover="transfer" if views else "",
    )


def tables(rows: pd.DataFrame) -> dict[str, Table]:
    """Over all layers below the last, and layer by layer."""
    return catalogue(
        {
            "variants": ("Held-out KL, mean over the layers below the last", _variants(rows)),
            "layers": ("Held-out KL by layer", _layers(rows)),
        }
    )


def _variants(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per lens x variant: its own lens, the first one's, the difference and a verdict."""
    found = []
    for (lens, model), part in rows.groupby(["lens", "model"], sort=False):
        terms = _terms(part)
        row = {"lens": lens, "variant": model, **_compared(terms)}
        if "first" in terms:
            lost = _lost(terms)
            row |= {"loss_share": lost, "use": verdict(lost)}
        found.append(row)
    return pd.DataFrame(found, columns=["lens", "variant", *_COMPARED, "loss_share", "use"])


def _layers(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per lens x variant x layer."""
    keys = ["lens", "model", "layer", "depth"]
    found = [
        dict(zip(["lens", "variant", "layer", "depth"], key, strict=True)) | _compared(_terms(part))
        for key, part in rows.groupby(keys, sort=False)
    ]
    return pd.DataFrame(found, columns=["lens", "variant", "layer", "depth", *_COMPARED])


def _compared(terms: Mapping[str, Floats]) -> dict[str, Estimate]:
    """Each reading's KL, and what the first variant's lens loses beside the own one."""
    found = {
        f"{reading}_kl_bits": within(summed_estimate(own, ratio), most=math.inf)  # no KL is below 0
        for reading, own in terms.items()
    }
    if "first" in terms:
        found["loss_bits"] = summed_difference(terms["first"], terms["own"], ratio)
    return found


def _terms(rows: pd.DataFrame) -> dict[str, Floats]:
    """[document, (bits, tokens)] of each reading, its layers together; documents in one order."""
    weighted = rows.assign(bits=rows["kl_bits"] * rows["n_tokens"])
    return {
        str(reading): own.groupby("document")[["bits", "n_tokens"]].sum().to_numpy(np.float64)
        for reading, own in weighted.groupby("reading")
    }


def _lost(terms: Mapping[str, Floats]) -> Estimate:
    """The share of the own lens' gain over the logit lens that the first variant's loses."""
    gain = summed_difference(terms["final"], terms["own"], ratio)
    least = gain.value if gain.low is None else gain.low  # of few documents there is no interval
    if least is None or least <= 0:
        reason = gain.reason if least is None else "its own lens is not seen to gain anything"
        return replace(gain, value=None, low=None, high=None, reason=reason)
    three = np.hstack([terms[reading][:, :1] for reading in ("own", "first", "final")])
    return summed_estimate(three, _loss_share)


def _loss_share(sums: Floats) -> Floats:
    own, first, final = sums[..., 0], sums[..., 1], sums[..., 2]
    return (first - own) / (final - own)


def verdict(loss: Estimate) -> str:
    """Whether the first variant's lens may be used, by what it loses."""
    if loss.low is None or loss.high is None:
        return "cannot be told"
    if loss.high < ALLOWED_LOSS:
        return "may be used"
    return "may not be used" if loss.low > ALLOWED_LOSS else "cannot be told"


def headline(variants: pd.DataFrame, first: str) -> str:
    """On which variants the first one's lens may be used."""
    told = []
    for row in variants.dropna(subset=["use"]).to_dict("records"):
        lost = numbers.estimate(row["loss_share"], "share")
        told.append(f"on {row['variant']} {row['use']} ({row['lens']}: {lost} of the gain lost)")
    return markdown(f"A lens of {first}: {'; '.join(told)}")


def curves(layers: pd.DataFrame) -> Iterator[Lines]:
    """KL by depth, a panel for each lens and variant; a reading has one colour in all of them."""
    blocks = layers[layers["layer"] > 0]  # the embedding is so far off that it would hide the rest
    for (lens, model), part in blocks.groupby(["lens", "variant"], sort=False):
        lines = [
            Line(name, list(part[f"{reading}_kl_bits"]), dash=dash)
            for reading, (name, dash) in sorted(READINGS.items(), key=lambda one: one[0] == "first")
            if part[f"{reading}_kl_bits"].notna().all()
        ]
        title = f"{model}, {lens}"
        yield Lines(Axis("depth", percent=True), Axis(_KL), by_depth(part), lines, title)


def _page(name: str, views: list[Lines]) -> Page:
    sentence = "How far each lens is from each variant, on text that no lens was fitted to."
    return Page(f"{name}: one lens on other variants", sentence, (), plain_charts(views, _SENTENCE))
