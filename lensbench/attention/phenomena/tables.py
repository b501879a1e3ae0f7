"""Tables of phenomena, made of the answers of every head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lensbench.attention.phenomena.depth import (
    SEMANTIC,
    SYNTACTIC,
    THIRDS,
    Depth,
    Third,
    best_of_each_block,
    in_thirds,
)
from lensbench.attention.phenomena.held_out import Chosen, HeldOut, held_out
from lensbench.prompts.gold import PHENOMENA as NAMES
from lensbench.records.schema.attention import WEIGHTINGS
from lensbench.records.schema.phenomena import DEPTHS, PHENOMENA
from lensbench.stats.halves import LEAST

Places = Sequence[tuple[int, int]]  # block and head, in the order of the answers
_CLAIMS: dict[str, tuple[Third, tuple[str, ...]]] = {
    "syntactic": ("middle", SYNTACTIC),
    "semantic": ("deep", SEMANTIC),
}


def phenomena_table(answers: pd.DataFrame, places: Places, model: str, seed: int) -> pa.Table:
    """One row per weighting, phenomenon and direction: the best head, on the other half."""
    rows = []
    for key, own in _asked(answers):
        trained, untrained = own[own["who"] == "trained"], own[own["who"] == "untrained"]
        right = _stacked(trained["right"])
        same = trained[_QUESTION].to_numpy().tolist() == untrained[_QUESTION].to_numpy().tolist()
        found = held_out(
            right,
            trained["offset"].to_numpy(),
            trained["prompt_id"].tolist(),
            _above(trained["above_distractor"], right.shape[1]),
            _stacked(untrained["right"]) if same else None,
            seed,
        )
        n_sentences = int(trained["prompt_id"].nunique())
        where = dict(zip(_KEYS, key, strict=True)) | {"model": model, "n_sentences": n_sentences}
        rows.append(where | (_nothing(n_sentences) if found is None else _row(found, places)))
    return PHENOMENA.of_rows(rows)


_KEYS = ["weighting", "phenomenon", "direction"]
_QUESTION = ["prompt_id", "query", "offset"]


def _asked(answers: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """The answers of each key, weightings and phenomena in their own order."""
    order = {name: place for place, name in enumerate([*WEIGHTINGS, *NAMES])}
    groups = [(tuple(map(str, key)), own) for key, own in answers.groupby(_KEYS, sort=False)]
    yield from sorted(groups, key=lambda one: [order.get(name, 0) for name in one[0]])


def _stacked(lists: pd.Series) -> np.ndarray:
    return np.stack([np.asarray(one, dtype=bool) for one in lists])


def _above(lists: pd.Series, n_heads: int) -> np.ndarray:
    nothing = np.full(n_heads, np.nan)
    return np.stack([nothing if one is None else np.asarray(one, float) for one in lists])


def _nothing(n_sentences: int) -> dict[str, Any]:
    why = f"{n_sentences} sentences: {LEAST} or more make two halves"
    return {"n_questions": 0, "n_distractors": 0, "reason": why}


def _row(found: HeldOut, places: Places) -> dict[str, Any]:
    block, head = places[found.head.which]
    return {
        "block": block,
        "head": head,
        **_chosen("", found.head),
        "offset": found.offset.which,
        **_chosen("offset_", found.offset),
        **found.over_offset.columns("over_offset"),
        **(_chosen("untrained_", found.untrained) if found.untrained else {}),
        **(found.over_untrained.columns("over_untrained") if found.over_untrained else {}),
        **found.above_distractor.columns("above_distractor"),
        "n_questions": found.head.accuracy.n,
        "n_distractors": found.above_distractor.n,
    }


def _chosen(name: str, chosen: Chosen) -> dict[str, Any]:
    first = {f"{name}first_half_accuracy": chosen.on_first_half}
    return first | chosen.accuracy.columns(f"{name}accuracy")


def depths_table(
    answers: pd.DataFrame, heads: pd.DataFrame, places: Places, model: str, seed: int
) -> pa.Table:
    """One row per weighting and claim about depth; none for models of fewer than three blocks."""
    rows = []
    for weighting, own in answers[answers["who"] == "trained"].groupby("weighting", sort=False):
        for claim, (third, phenomena) in _CLAIMS.items():
            for direction, asked in own.groupby("direction", sort=False):
                depth = _answered(asked[asked["phenomenon"].isin(phenomena)], third, places, seed)
                rows += _depth_row(model, weighting, claim, direction, third, depth)
    text = heads[heads["condition"] == "text"]
    for weighting, own in text.groupby("weighting", sort=False):
        each = own.groupby(["prompt_id", "block"])["entropy_share"].mean().unstack().dropna()
        depth = in_thirds(each.to_numpy(), "early", each.index.tolist())
        rows += _depth_row(model, weighting, "broad", None, "early", depth)
    return DEPTHS.of_rows(rows)


def _answered(asked: pd.DataFrame, third: Third, places: Places, seed: int) -> Depth | None:
    """Accuracy of each block's best head, on the other half, by thirds of the depth."""
    if asked.empty:
        return None
    blocks = np.array([block for block, _ in places])
    sentences = asked["prompt_id"].to_numpy()
    found = best_of_each_block(
        _stacked(asked["right"]), blocks, asked["phenomenon"].tolist(), sentences.tolist(), seed
    )
    if found is None:
        return None
    rows, second = found
    return in_thirds(rows, third, sentences[second].tolist())


def _depth_row(
    model: str,
    weighting: object,
    claim: str,
    direction: object,
    third: Third,
    depth: Depth | None,
) -> list[dict[str, Any]]:
    if depth is None:
        return []
    where: dict[str, Any] = {"model": model, "weighting": weighting, "claim": claim}
    where |= {"direction": direction}
    means = {name: depth.means[name] for name in THIRDS}
    for other, above in depth.above.items():
        where |= {"n": above.n, "n_sentences": above.n_clusters}
        where |= above.columns(f"above_{other}")
    return [where | means | {"third": third}]
