"""What each setting makes of the next token and of texts: means over prompts with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lensbench.records.schema.text.sampling import OWN
from lensbench.stats.estimates import (
    Estimate,
    Statistic,
    clustered_estimate,
    paired_difference,
    rescaled,
    summed_estimate,
    within,
)
from lensbench.stats.intervals import ratio

_UNBOUND = float("inf")
# Of the next token: the statistic over prompts, and the range of the number.
FIRST: dict[str, tuple[Statistic, float, float]] = {
    "entropy_bits": ("mean", 0.0, _UNBOUND),
    "effective_tokens": ("median", 1.0, _UNBOUND),
    "n_kept": ("median", 1.0, _UNBOUND),
    "kept_prob": ("mean", 0.0, 1.0),
    "top_prob": ("mean", 0.0, 1.0),
    "total_variation": ("mean", 0.0, 1.0),
}
# Of texts, a number for each prompt, and its range.
SETS = {
    "distinct_1_share": (0.0, 1.0),
    "distinct_2_share": (0.0, 1.0),
    "self_bleu": (0.0, 100.0),
    "repeated_share": (0.0, 1.0),
}


def first_tokens(rows: pd.DataFrame, settings: pd.DataFrame, relation: pd.Series) -> pd.DataFrame:
    """One row per setting: what it makes of the next token, over prompts.

    `relation`: the kind of each prompt, here and below what is drawn.
    """
    groups = dict(iter(rows.groupby("setting", sort=False)))
    return pd.DataFrame(
        [
            _marked(one) | _first(groups[one["setting"]], relation)
            for one in settings.to_dict("records")
        ]
    )


def by_relation(rows: pd.DataFrame, names: Sequence[str], relation: pd.Series) -> pd.DataFrame:
    """The same of some settings by kind of prompt: what depends on prompts."""
    chosen = rows[rows["setting"].isin(names)]
    found = []
    for (kind, setting), own in chosen.groupby(
        [chosen["prompt_id"].map(relation), "setting"], sort=False
    ):
        row: dict[str, Any] = {"relation": kind, "setting": setting, "n_prompts": len(own)}
        kept = ("entropy_bits", "effective_tokens", "n_kept", "kept_prob")
        found.append(row | {name: _over_prompts(own, name) for name in kept})
    return pd.DataFrame(found)


def texts(
    sets: pd.DataFrame, rows: pd.DataFrame, settings: pd.DataFrame, relation: pd.Series
) -> pd.DataFrame:
    """One row per written setting: what its texts cost, repeat and have in common."""
    of_sets, of_rows = (dict(iter(one.groupby("setting", sort=False))) for one in (sets, rows))
    written = settings[settings["is_written"] & settings["setting"].isin(list(of_sets))]
    found = [
        _marked(one) | _written(of_sets[one["setting"]], of_rows[one["setting"]], relation)
        for one in written.to_dict("records")
    ]
    frame = pd.DataFrame(found)
    if not frame.empty:
        frame.insert(2, "unbeaten", _unbeaten(frame))
    return frame


def beside_own(sets: pd.DataFrame, relation: pd.Series) -> pd.DataFrame:
    """One row per written setting: prompt by prompt, less the model's own distribution (T=1)."""
    by_setting = {
        str(name): own.set_index("prompt_id").assign(
            bits_per_token=lambda one: one["bits"] / one["n_tokens"]
        )
        for name, own in sets.groupby("setting", sort=False)
    }
    if OWN not in by_setting:
        return pd.DataFrame()
    base, found = by_setting[OWN], []
    for name, own in by_setting.items():
        if name == OWN:
            continue
        row: dict[str, Any] = {"setting": name}
        for column in ("bits_per_token", *SETS):
            called = column.replace("_share", "_pp") if column.endswith("_share") else column
            row[f"{called}_change" if called == column else called] = paired_difference(
                own[column], base[column], relation, "mean"
            )
        found.append(row)
    return pd.DataFrame(found)


def _marked(setting: Mapping[Any, Any]) -> dict[str, Any]:
    said = "yes" if setting["is_published"] else "no"
    return {"setting": setting["setting"], "published": said}


def _first(own: pd.DataFrame, relation: pd.Series) -> dict[str, Any]:
    return {"n_prompts": len(own)} | {name: _over_prompts(own, name, relation) for name in FIRST}


def _over_prompts(own: pd.DataFrame, name: str, relation: pd.Series | None = None) -> Estimate:
    statistic, least, most = FIRST[name]
    kinds = None if relation is None else own["prompt_id"].map(relation)
    return within(clustered_estimate(own[name], kinds, statistic), least, most)


def _written(sets: pd.DataFrame, rows: pd.DataFrame, relation: pd.Series) -> dict[str, Any]:
    """A kind of prompt is what is drawn: tokens of its texts weigh as many as there are."""
    kinds = sets["prompt_id"].map(relation)
    terms = sets[["bits", "n_tokens"]].to_numpy(float)
    found: dict[str, Any] = {"n_prompts": len(sets), "n_texts": int(sets["n_texts"].sum())}
    found["bits_per_token"] = within(summed_estimate(terms, ratio, list(kinds)), 0.0, _UNBOUND)
    found["perplexity"] = rescaled(found["bits_per_token"], np.exp2)
    nothing = "no text has so many words"
    for name, ends in SETS.items():
        found[name] = within(clustered_estimate(sets[name], kinds, nothing=nothing), *ends)
    words = rows.groupby("prompt_id", sort=False)["n_words"].mean()
    own = relation.reindex(words.index)
    found["words"] = within(clustered_estimate(words, own), 0.0, _UNBOUND)
    stopped = (rows["finish_reason"] == "stop").astype(float)
    found["ended_share"] = clustered_estimate(stopped, rows["prompt_id"].map(relation), "share")
    return found


def _unbeaten(frame: pd.DataFrame) -> list[str]:
    """Whether no other setting is cheaper in bits a token and has more distinct pairs of words."""
    cost = np.array([one.value for one in frame["bits_per_token"]], float)
    gain = np.array([one.value for one in frame["distinct_2_share"]], float)
    beaten = [
        bool((((cost <= c) & (gain >= g)) & ((cost < c) | (gain > g))).any())
        for c, g in zip(cost, gain, strict=True)
    ]
    return ["no" if one else "yes" for one in beaten]
