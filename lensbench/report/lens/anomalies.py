"""Mid-layer top tokens that nothing in the prompt explains, measured against a stated chance."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from lensbench.records.lens.record import LensRecord
from lensbench.records.schema.lens import NOT_MEASURED
from lensbench.report.lens.curves import own_and_chance
from lensbench.stats.estimates import Estimate, clustered_estimate

MIDDLE = (0.25, 0.75)  # relative depths that count as mid layers
FREQUENT = 0.05  # a token on top for this share of a layer's prompts says nothing about one prompt
FREQUENT_AT_LEAST = 2  # prompts


def find_anomalies(record: LensRecord) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells at mid layers whose top token is neither prompt, answer, category nor frequent.

    Two frames, base prompt x mid layer: 1 where that is so, and the chance of it.
    """
    base = record.answered
    base = base[base["tokens"].notna()]
    tops = record.first_by_layer("top_tokens", base.index, record.main_lens)
    depth = tops.columns.to_numpy(dtype=float) / record.n_layers
    tops = tops.loc[:, (depth >= MIDDLE[0]) & (depth <= MIDDLE[1])].dropna()
    prompts = base.reindex(tops.index)
    related = [_related(prompt) for _, prompt in prompts.iterrows()]
    odd, chance = pd.DataFrame(index=tops.index), pd.DataFrame(index=tops.index)
    for layer in tops:
        words = [_word(token) for token in tops[layer]]
        frequent = _frequent(words)
        seen, by_chance = own_and_chance(words, [own | frequent for own in related])
        odd[layer], chance[layer] = 1 - seen, 1 - by_chance
    return odd, chance


def _word(token: str) -> str:
    """A token's text without surrounding space and case: ` Berlin` and `berlin` are one word."""
    return token.strip().casefold()


def _related(prompt: pd.Series) -> frozenset[str]:
    """The words that a prompt itself explains: its tokens, its answer, its category."""
    named = [prompt["answer"], prompt["answer_token"], prompt["category"], prompt["subject"]]
    return frozenset(_word(t) for t in [*prompt["tokens"], *named] if isinstance(t, str))


def _frequent(words: list[str]) -> frozenset[str]:
    """Words on top for many of a layer's prompts, and those without a letter or digit."""
    at_least = max(FREQUENT * len(words), FREQUENT_AT_LEAST)
    return frozenset(
        word
        for word, n in Counter(words).items()
        if n >= at_least or not any(character.isalnum() for character in word)
    )


def share_table(record: LensRecord) -> pd.DataFrame:
    """Observed and chance share of cells, and their difference, over prompts."""
    odd, chance = find_anomalies(record)
    relation = record.answered["relation"].reindex(odd.index)
    columns = {
        "observed_share": odd.mean(axis=1),
        "chance_share": chance.mean(axis=1),
        "observed_minus_chance_pp": odd.mean(axis=1) - chance.mean(axis=1),
    }
    nothing = _why_none(record)
    row: dict[str, object] = {
        "cells": int(odd.size),
        "anomalies": int(np.nansum(odd.to_numpy())) if odd.size else 0,
    }
    row |= {name: clustered_estimate(v, relation, nothing=nothing) for name, v in columns.items()}
    return pd.DataFrame([row])


def _why_none(record: LensRecord) -> str:
    """Why no cell can be judged, where none can."""
    base = record.answered
    if base.empty:
        return "no prompts with an answer"
    tops = record.first_by_layer("top_tokens", base.index, record.main_lens)
    told = base["tokens"].notna().any() and tops.notna().any(axis=None)
    return "no mid layers recorded" if told else f"{NOT_MEASURED}: tokens or top tokens"


def reading(shares: pd.DataFrame) -> str:
    """What the observed share means beside chance, in words."""
    difference: Estimate = shares["observed_minus_chance_pp"].iloc[0]
    if difference.low is None or difference.high is None:
        return f"cannot tell ({difference.reason})"
    if difference.high < 0:
        return (
            "fewer than chance: the mid-layer tokens belong to their own prompts more than to "
            "other prompts of the set"
        )
    if difference.low > 0:
        return "more than chance: the mid-layer tokens lead away from their own prompts"
    return (
        "no different from chance: another prompt's mid-layer token would look as odd here, so "
        "these tokens are no evidence about single prompts"
    )


def cells_table(record: LensRecord) -> pd.DataFrame:
    """The anomalous cells themselves: prompt, layer, token and its probability."""
    odd, prompts = find_anomalies(record)[0], record.answered
    tops = record.first_by_layer("top_tokens", prompts.index, record.main_lens)
    probs = record.first_by_layer("top_probs", prompts.index, record.main_lens)
    at = np.nonzero(odd.to_numpy() == 1)
    ids, layers = odd.index[at[0]], odd.columns.to_numpy(dtype=int)[at[1]]
    columns = {
        "prompt_id": ids,
        "relation": prompts["relation"].reindex(ids).to_numpy(),
        "prompt": prompts["prompt"].reindex(ids).to_numpy(),
        "layer": layers,
        "depth": layers / record.n_layers,
        "token": tops.reindex_like(odd).to_numpy()[at],
        "prob": probs.reindex_like(odd).to_numpy(dtype=float)[at],
    }
    return pd.DataFrame(columns).sort_values(
        ["prob", "prompt_id", "layer"], ascending=[False, True, True], ignore_index=True
    )
