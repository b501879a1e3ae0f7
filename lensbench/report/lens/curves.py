"""Curves over depth at the prompts' last position, each point a mean with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensbench.records.lens.record import LensRecord
from lensbench.records.schema.lens import LENS
from lensbench.report.lens.groups import category_prompts, control_prompts, why_nothing
from lensbench.stats.estimates import Estimate, Statistic, all_within, clustered_estimate

_NO_ANSWERS = "no prompts with an answer"


def curve(
    values: pd.DataFrame,
    prompts: pd.DataFrame,
    statistic: Statistic = "mean",
    nothing: str = "no prompts",
) -> pd.Series:
    """Mean or share of each column (layer) of `values` [prompt, layer], clustered by relation.

    `nothing` is the reason given where there are no prompts.
    """
    relation, why = prompts["relation"].reindex(values.index), why_nothing(values, nothing)
    return pd.Series(
        {layer: clustered_estimate(values[layer], relation, statistic, why) for layer in values},
        dtype=object,
    )


def depth_curves(record: LensRecord, lens: str | None = None) -> pd.DataFrame:
    """Mean entropy, KL(model || lens) and p(answer) by layer, over base prompts with an answer."""
    columns = ("entropy_bits", "kl_bits", "answer_prob")
    return _means(record, record.answered, columns, _NO_ANSWERS, lens)


def without_answer_curves(record: LensRecord) -> pd.DataFrame:
    """Mean entropy and KL(model || lens) of the base prompts without an answer, by layer."""
    nothing = "every prompt has an answer"
    return _means(record, record.unanswered, ("entropy_bits", "kl_bits"), nothing)


def _means(
    record: LensRecord,
    prompts: pd.DataFrame,
    columns: Sequence[str],
    nothing: str,
    lens: str | None = None,
) -> pd.DataFrame:
    """Intervals end where the quantity does: no probability is below 0, and no entropy."""
    made = {}
    for name in columns:
        values = record.by_layer(name, prompts.index, lens or record.main_lens)
        made[name] = all_within(curve(values, prompts, "mean", nothing), *LENS.ends(name))
    return _with_depth(record, made)


def emergence_curve(record: LensRecord, lens: str | None = None) -> pd.DataFrame:
    """Share of base prompts (controls beside them) with the answer at rank 1, by layer.

    `rank1_stable_share` counts prompts whose answer is at rank 1 at this layer and all later ones.
    """
    base, controls = record.answered, control_prompts(record)
    rank1 = _at_most(record, "answer_place", base, 1, lens)
    from_here = _least_from_here(rank1)
    control = _at_most(record, "answer_place", controls, 1, lens)
    return _with_depth(
        record,
        {
            "answer_rank1_share": curve(rank1, base, "share", _NO_ANSWERS),
            "rank1_stable_share": curve(from_here, base, "share", _NO_ANSWERS),
            "control_rank1_share": curve(control, controls, "share", "no controls"),
        },
    )


def _least_from_here(flags: pd.DataFrame) -> pd.DataFrame:
    """1 where a flag is 1 from a layer to the last, 0 where one is 0, NaN where that is unknown."""
    backwards = flags.iloc[:, ::-1]
    unknown, least = backwards.isna().cummax(axis=1), backwards.fillna(1).cummin(axis=1)
    return least.mask(unknown & (least == 1)).iloc[:, ::-1]


def depth_curves_by_lens(record: LensRecord) -> pd.DataFrame:
    """The depth curves by each lens that may stand in a headline."""
    return _by_lens(record, depth_curves)


def emergence_by_lens(record: LensRecord) -> pd.DataFrame:
    """The curves of emergence by each lens that may stand in a headline."""
    return _by_lens(record, emergence_curve)


def _by_lens(record: LensRecord, make: Callable[[LensRecord, str], pd.DataFrame]) -> pd.DataFrame:
    """Of one lens alone nothing."""
    lenses = record.headline_lenses
    frames = [make(record, lens).assign(lens=lens) for lens in lenses if len(lenses) > 1]
    if not frames:
        return pd.DataFrame()
    frame = pd.concat(frames, ignore_index=True)
    return frame[["lens", *frame.columns.drop("lens")]]


def category_curve(record: LensRecord) -> pd.DataFrame:
    """Share of prompts with the category, the null category, the answer in the top 10."""
    base = category_prompts(record)
    names = {"category": "category_rank", "null_category": "null_category_rank"}
    names["answer"] = "answer_place"
    return _with_depth(
        record,
        {
            f"{name}_top10_share": curve(
                _at_most(record, column, base, 10),
                base,
                "share",
                "no prompts with a category word",
            )
            for name, column in names.items()
        },
    )


def copying_curve(record: LensRecord) -> pd.DataFrame:
    """Share of base prompts whose top token is one of the prompt's own, beside chance, by layer.

    Chance: the layer's top tokens dealt out to the prompts at random, averaged over all deals. Only
    prompts with an answer count, as everywhere; where tokens are not known nothing does.
    """
    base = record.answered
    tops = record.first_by_layer("top_ids", base.index, record.main_lens)
    own = base["token_ids"].reindex(tops.index)
    observed, chance = tops.astype(float) * np.nan, tops.astype(float) * np.nan
    for layer in tops:
        known = tops[layer].notna() & own.notna()
        mine = [frozenset(ids.tolist()) for ids in own[known]]
        seen, by_chance = own_and_chance(tops[layer][known].tolist(), mine)
        observed[layer] = pd.Series(seen, tops.index[known]).reindex(tops.index)
        chance[layer] = pd.Series(by_chance, tops.index[known]).reindex(tops.index)
    return _with_depth(
        record,
        {
            "copied_share": curve(observed, base, "share", _NO_ANSWERS),
            "chance_share": curve(chance, base, "mean", _NO_ANSWERS),
            "copied_minus_chance_pp": curve(observed - chance, base, "mean", _NO_ANSWERS),
        },
    )


def own_and_chance(
    tops: Sequence[Hashable], own: Sequence[frozenset[Hashable]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per prompt: is its top token in its own set (0 or 1), and would a random prompt's token be?

    The second is the mean over all ways to permute the tokens among the prompts, exactly: a
    permutation gives every token to every prompt equally often.
    """
    seen = np.array([top in mine for top, mine in zip(tops, own, strict=True)], dtype=float)
    often = Counter(tops)
    shared = np.array([sum(often[token] for token in mine if token in often) for mine in own])
    return seen, shared.astype(float) / max(len(tops), 1)


def first_or_none(items: object) -> Hashable:
    """The first of a cell's list (the top token), or None where nothing was recorded."""
    return items[0] if isinstance(items, np.ndarray) and len(items) else None


def _at_most(
    record: LensRecord, column: str, prompts: pd.DataFrame, rank: int, lens: str | None = None
) -> pd.DataFrame:
    """1 where the rank is `rank` or better, 0 where not, NaN where there is no rank.

    Of an answer NaN at every layer, too, where a control of the lens has it at that rank.
    """
    lens = lens or record.main_lens
    ranks = record.by_layer(column, prompts.index, lens).astype(float)
    if column == "answer_place":
        ranks[record.guessed(lens, ranks.index, rank)] = np.nan
    return (ranks <= rank).astype(float).where(ranks.notna())


def _with_depth(record: LensRecord, columns: dict[str, pd.Series]) -> pd.DataFrame:
    """Curves side by side, with layer and relative depth; a curve without points says so."""
    layers = sorted({int(layer) for column in columns.values() for layer in column.index})
    empty = Estimate(None, None, None, 0, 0, "no prompts of this kind")
    frame = pd.DataFrame({"layer": layers, "depth": [i / record.n_layers for i in layers]})
    for name, column in columns.items():
        frame[name] = [column.get(layer, empty) for layer in layers]
    return frame
