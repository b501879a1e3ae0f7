"""Curves over depth at the prompts' last position, each point a mean with its interval."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensbench.records.lens_record import LensRecord
from lensbench.report.lens.groups import category_prompts, control_prompts
from lensbench.stats.bootstrap import Estimate, clustered_bootstrap

GRID = np.linspace(0, 1, 21)  # equal relative depths, on which models are compared


def curve(values: pd.DataFrame, prompts: pd.DataFrame, nothing: str = "no prompts") -> pd.Series:
    """The mean of each column (layer) of `values` [prompt, layer], clustered by relation."""
    relation = prompts["relation"].reindex(values.index)
    return pd.Series(
        {layer: clustered_bootstrap(values[layer], relation, nothing=nothing) for layer in values},
        dtype=object,
    )


def depth_curves(record: LensRecord) -> pd.DataFrame:
    """Mean entropy, KL(model || lens) and answer probability of the base prompts, by layer."""
    base = record.base_prompts
    columns = ("entropy_bits", "kl_bits", "answer_prob")
    return _with_depth(
        record,
        {c: curve(record.by_layer(c, base.index, record.main_lens), base) for c in columns},
    )


def emergence_curve(record: LensRecord) -> pd.DataFrame:
    """Share of base prompts (controls beside them) with the answer at rank 1, by layer.

    `rank1_stable_share` counts prompts whose answer is at rank 1 at this layer and all later ones.
    """
    base, controls = record.base_prompts, control_prompts(record)
    rank1 = _at_most(record, "answer_place", base, 1)
    from_here = rank1.iloc[:, ::-1].cummin(axis=1).iloc[:, ::-1]
    control = _at_most(record, "answer_place", controls, 1)
    return _with_depth(
        record,
        {
            "answer_rank1_share": curve(rank1, base),
            "rank1_stable_share": curve(from_here, base),
            "control_rank1_share": curve(control, controls, "no controls"),
        },
    )


def category_curve(record: LensRecord) -> pd.DataFrame:
    """Share of prompts with the category, the null category, the answer in the top 10."""
    base = category_prompts(record)
    names = {"category": "category_rank", "null_category": "null_category_rank"}
    names["answer"] = "answer_place"
    return _with_depth(
        record,
        {
            f"{name}_top10_share": curve(
                _at_most(record, column, base, 10), base, "no prompts with a category word"
            )
            for name, column in names.items()
        },
    )


def copying_curve(record: LensRecord) -> pd.DataFrame:
    """Share of base prompts whose top token is one of the prompt's own, beside chance, by layer.

    Chance: the layer's top tokens dealt out to the prompts at random, averaged over all deals.
    """
    base = record.base_prompts
    tops = record.by_layer("top_ids", base.index, record.main_lens).map(first_or_none)
    own = [frozenset(ids.tolist()) for ids in base["token_ids"].reindex(tops.index)]
    observed, chance = {}, {}
    for layer in tops:
        observed[layer], chance[layer] = own_and_chance(tops[layer].tolist(), own)
    share, null = (pd.DataFrame(values, index=tops.index) for values in (observed, chance))
    return _with_depth(
        record,
        {
            "copied_share": curve(share, base),
            "chance_share": curve(null, base),
            "copied_minus_chance_pp": curve(share - null, base),
        },
    )


def own_and_chance(
    tops: Sequence[Hashable], own: Sequence[frozenset[Hashable]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per prompt: is its top token in its own set (0 or 1), and would a random prompt's token be?

    The second is the mean over all ways to permute the tokens among the prompts, exactly: a
    permutation gives every token to every prompt equally often.
    """
    tokens = list(dict.fromkeys(tops))
    place = {token: i for i, token in enumerate(tokens)}
    member = np.array([[token in mine for token in tokens] for mine in own], dtype=float)
    index = np.array([place[token] for token in tops], dtype=int)
    counts = np.bincount(index, minlength=len(tokens))
    return member[np.arange(len(tops)), index], member @ counts / max(len(tops), 1)


def first_or_none(items: object) -> Hashable:
    """The first of a cell's list (the top token), or None where nothing was recorded."""
    return items[0] if isinstance(items, np.ndarray) and len(items) else None


def on_grid(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A curve's value, low and high at the relative depths of `GRID`, linear in between."""
    points = table[column]
    parts = {
        part: [np.nan if getattr(e, part) is None else getattr(e, part) for e in points]
        for part in ("value", "low", "high")
    }
    return pd.DataFrame(
        {part: np.interp(GRID, table["depth"], values) for part, values in parts.items()}
    )


def _at_most(record: LensRecord, column: str, prompts: pd.DataFrame, rank: int) -> pd.DataFrame:
    """1 where the rank is `rank` or better, 0 where not, NaN where there is no rank."""
    ranks = record.by_layer(column, prompts.index, record.main_lens).astype(float)
    return (ranks <= rank).astype(float).where(ranks.notna())


def _with_depth(record: LensRecord, columns: dict[str, pd.Series]) -> pd.DataFrame:
    """Curves side by side, with layer and relative depth; a curve without points says so."""
    layers = sorted({int(layer) for column in columns.values() for layer in column.index})
    empty = Estimate(None, None, None, 0, 0, "no prompts of this kind")
    frame = pd.DataFrame({"layer": layers, "depth": [i / record.n_layers for i in layers]})
    for name, column in columns.items():
        frame[name] = [column.get(layer, empty) for layer in layers]
    return frame
