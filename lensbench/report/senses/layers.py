"""Means over words by layer, and how far words of two senses are beyond words of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lensbench.stats.estimates import WORD, Estimate, paired_difference, summed_estimate
from lensbench.stats.resampling import Floats
from lensbench.stats.words import MEASURES, over_words

_NONE = Estimate(None, None, None, 0, 0, "no such words")
_KEYS = ["condition", "correction", "split"]


def by_layer(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per condition x correction x split x layer: means over words with intervals.

    Beside it, word by word, the accuracy less that of the embedding layer and of the untrained
    model.
    """
    groups: dict[tuple[Any, ...], pd.DataFrame] = {
        key: own.set_index("word") for key, own in rows.groupby([*_KEYS, "layer"], sort=False)
    }
    found = []
    for (condition, correction, split, layer), own in groups.items():
        row: dict[str, Any] = {"condition": condition, "correction": correction, "split": split}
        row |= {"layer": int(layer), "depth": float(own["depth"].iloc[0])}
        row |= {measure: over_words(own[measure], measure) for measure in MEASURES}
        beside = {
            "embedding": groups.get((condition, correction, split, 0)),
            "untrained": groups.get(("untrained", correction, split, layer)),
        }
        row |= {f"above_{name}_pp": _above(own, other) for name, other in beside.items()}
        found.append(row)
    return pd.DataFrame(found)


def _above(own: pd.DataFrame, other: pd.DataFrame | None) -> Estimate:
    """The accuracy less another one, word by word."""
    if other is None:
        return Estimate(None, None, None, 0, 0, "not measured")
    clusters = pd.Series(own.index, own.index)
    found = paired_difference(own["accuracy"], other["accuracy"], clusters, "mean", WORD)
    if found.value and found.low == found.high:  # words that agree say nothing of their spread
        return replace(found, low=None, high=None, reason="the same for every word: no interval")
    return found


def difference_by_layer(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per correction x layer: mean over words of two senses less that of one sense.

    The words are others, so that the interval draws words of both kinds. The controls are
    sentences about two subjects: what tells the sense apart from what the sentence is about.
    """
    found = []
    own = rows[(rows["condition"] == "trained") & rows["split"].isin(["senses", "subjects"])]
    for (correction, _), here in own.groupby(["correction", "layer"], sort=False):
        row: dict[str, Any] = {"correction": correction, "layer": int(here["layer"].iloc[0])}
        row["depth"] = float(here["depth"].iloc[0])
        first = (here["split"] == "senses").to_numpy(float)
        for measure, name in (("accuracy", "accuracy_pp"), ("separation", "separation_difference")):
            values = here[measure].to_numpy(float)
            terms = np.stack([values * first, first, values * (1 - first), 1 - first], axis=1)
            row[name] = _two_kinds(terms)
        found.append(row)
    names = ["correction", "layer", "depth", "accuracy_pp", "separation_difference"]
    return pd.DataFrame(found, columns=names)


def _two_kinds(terms: Floats) -> Estimate:
    if not (terms[:, 1].any() and terms[:, 3].any()):
        return Estimate(None, None, None, 0, 0, "no words of one of the two kinds")
    return summed_estimate(terms, _less, list(range(len(terms))))


def _less(sums: Floats) -> Floats:
    """The mean of the first kind less that of the second."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3])


def parted(layers: pd.DataFrame, beside: pd.DataFrame) -> pd.DataFrame:
    """One row per correction: the layer of the highest accuracy, and from where on it is more.

    *Beyond subjects*: the first layer from which the interval of the difference is above 0 at every
    layer to the last. *Best layer*: chosen on the same words.
    """
    found = []
    own = layers[layers["condition"] == "trained"]
    for correction, here in own.groupby("correction", sort=False):
        at: dict[tuple[str, int], dict[Any, Any]] = {
            (row["split"], row["layer"]): row for row in here.to_dict("records")
        }
        best = best_layer(here)
        if best is None:
            continue
        senses = at["senses", best]
        row: dict[str, Any] = {"correction": correction, "best_layer": best}
        row["best_depth"] = senses["depth"]
        for split in ("senses", "subjects", "halves"):
            row[f"{split}_accuracy"] = at.get((split, best), {}).get("accuracy", _NONE)
        row |= {name: senses[name] for name in ("above_embedding_pp", "above_untrained_pp")}
        row["beyond_subjects_from_layer"] = _since(beside[beside["correction"] == correction])
        found.append(row)
    made = pd.DataFrame(found)
    kept = {"beyond_subjects_from_layer": "Int64"} if len(made) else {}
    return made.astype(kept)


def best_layer(layers: pd.DataFrame) -> int | None:
    """The first layer at which senses are told apart most often; None without such words."""
    own = layers[layers["split"] == "senses"]
    values = {
        int(layer): one.value
        for layer, one in zip(own["layer"], own["accuracy"], strict=True)
        if one.value is not None
    }
    return max(values, key=lambda layer: values[layer]) if values else None


def _since(beside: pd.DataFrame) -> int | None:
    """The first layer from which every interval is above 0."""
    above = [one.low is not None and one.low > 0 for one in beside["accuracy_pp"]]
    layers = beside["layer"].tolist()
    first = None
    for layer, one in zip(reversed(layers), reversed(above), strict=True):
        if not one:
            break
        first = int(layer)
    return first
