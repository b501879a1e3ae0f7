"""Ablations and circuits in a report: what is lost without a head, and how many can go."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lensbench.report.kit.views import Axis, Line, Lines
from lensbench.stats.estimates import Estimate, clustered_estimate

NO_LOSS = 0.01  # nats per token: one per cent of perplexity
_HEAD = ["block", "head"]
_CHANGES = ("loss_change_nats", "answer_change_nats", "answer_effect")


def losses(
    ablation: pd.DataFrame, names: pd.DataFrame, relation: Mapping[str, object]
) -> pd.DataFrame:
    """One row per head, the most needed first: mean changes over prompts, and its name."""
    called = names.set_index(_HEAD)["name"].to_dict()
    rows = []
    for place, own in ablation.groupby(_HEAD, sort=False):
        clusters = own["prompt_id"].map(relation)
        rows.append(
            {
                **dict(zip(_HEAD, place, strict=True)),
                "name": called.get(place, "not named"),
                **{key: clustered_estimate(own[key], clusters) for key in _CHANGES},
            }
        )
    found = pd.DataFrame(rows, columns=[*_HEAD, "name", *_CHANGES])
    order = np.argsort([-one.value for one in found["loss_change_nats"]], kind="stable")
    return found.iloc[order].reset_index(drop=True)


def by_name(heads: pd.DataFrame) -> pd.DataFrame:
    """One row per name: over its heads, what ablating one costs."""
    rows = []
    for name, own in heads.groupby("name", sort=False):
        values = np.array([one.value for one in own["loss_change_nats"]])
        rows.append(
            {
                "name": name,
                "n_heads": len(own),
                "loss_change_nats": float(np.mean(values)),
                "largest_nats": float(values.max()),
            }
        )
    return pd.DataFrame(rows, columns=["name", "n_heads", "loss_change_nats", "largest_nats"])


def redundancy(rows: pd.DataFrame, n_heads: int, relation: Mapping[str, object]) -> pd.DataFrame:
    """One row per number of heads that go: what is lost without all of them."""
    found = [
        {
            "n_heads": size,
            "heads_share": own["n_heads"].iloc[0] / n_heads,
            "loss_change_nats": clustered_estimate(
                own["loss_change_nats"], own["prompt_id"].map(relation)
            ),
        }
        for size, own in rows.groupby("n_heads")
    ]
    return pd.DataFrame(found, columns=["n_heads", "heads_share", "loss_change_nats"])


def at_no_loss(curve: pd.DataFrame) -> int | None:
    """The most heads that can go while the whole interval stays below `NO_LOSS`; None: no interval.

    All smaller numbers must be at no loss too.
    """
    most = 0
    for row in curve.to_dict("records"):
        loss: Estimate = row["loss_change_nats"]
        if loss.high is None:
            return None
        if loss.high >= NO_LOSS:
            break
        most = int(row["n_heads"])
    return most


def loss_curve(curve: pd.DataFrame) -> Lines | None:
    """Loss by the share of heads that go."""
    if curve.empty:
        return None
    places = {
        float(row["heads_share"]): f"{row['n_heads']} heads" for row in curve.to_dict("records")
    }
    line = Line("heads replaced by their means", list(curve["loss_change_nats"]))
    x = Axis("share of heads that go, the least needed first", percent=True)
    return Lines(x, Axis("loss change (nats per token)"), places, [line], zero=True)
