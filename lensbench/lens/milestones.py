"""Milestones: for each prompt, the layer at which something first becomes true. No torch here.

Read at the prompt's last position, where the answer is predicted, over the embedding and the
residual after each block. What never happens, or cannot be asked, is null with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lensbench.lens.registry import LENSES
from lensbench.records.schema.lens import MILESTONE_TABLE

_TOP = 10
_KL_BITS = 1.0
_RANK = ["answer_rank", "answer_ties"]  # their sum is the last of the places that the answer shares
_MUTE_CATEGORY = "the first token of the category word says nothing of it"


@dataclass(frozen=True)
class Track:
    """One prompt under one lens: a value per layer, embedding first.

    Arrays over layers hold NaN where nothing was measured; `prompt` is its row of the prompt table.
    `answer_rank` has all tokens that tie with the answer before it: a tie is no emergence yet.
    """

    prompt: dict[str, Any]
    layers: np.ndarray
    answer_rank: np.ndarray
    category_rank: np.ndarray
    null_category_rank: np.ndarray
    kl_bits: np.ndarray
    top_id: np.ndarray


@dataclass(frozen=True)
class Milestone:
    """What must hold at a layer, why it never does, and what a prompt must have to be asked it."""

    holds: Callable[[Track], np.ndarray]  # per layer
    never: str
    answer: bool = False
    category: str | None = None  # "category" or "null_category"

    def reached(self, track: Track) -> int | str:
        """The first layer, as an index into `track.layers`, or why there is none."""
        if self.answer and track.prompt["answer_id"] is None:
            return "the prompt has no answer"
        if self.category is not None:
            token = track.prompt[f"{self.category}_id"]
            if token is None:
                named = track.prompt[self.category] is not None
                return _MUTE_CATEGORY if named else "the relation has no category word"
            if token in track.prompt["token_ids"]:  # copied, perhaps: it says nothing of knowing
                return "the category word stands in the prompt"
        hit = self.holds(track)
        return int(hit.argmax()) if hit.any() else self.never


def milestones_table(model: str, n_layers: int, lens: pa.Table, prompts: pa.Table) -> pa.Table:
    """One row per prompt x lens (records/schema/lens.py: MILESTONE_TABLE)."""
    by_id = {row["prompt_id"]: row for row in prompts.to_pylist()}
    top1_correct = _top1_correct(lens, n_layers)
    rows = []
    for (prompt_id, lens_name), track in _tracks(lens, by_id):
        row: dict[str, Any] = {
            "model": model,
            "prompt_id": prompt_id,
            "relation": track.prompt["relation"],
            "lens": lens_name,
            "n_layers": n_layers,
            "top1_correct": top1_correct.get(prompt_id),
        }
        for name, milestone in _MILESTONES.items():
            row |= _columns(name, milestone.reached(track), track.layers, n_layers)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=MILESTONE_TABLE.schema)


def _top1_correct(lens: pa.Table, n_layers: int) -> dict[str, bool | None]:
    """Whether the model's own output has the answer first, and it alone.

    By the final lens at the last layer.
    """
    columns = ["prompt_id", "lens", "layer", "site", "is_last", *_RANK]
    frame = lens.select(columns).to_pandas()
    output = frame[(frame.lens == "final") & (frame.layer == n_layers) & frame.is_last]
    output = output[output.site == "resid_post"]
    ranks = zip(output.prompt_id, output[_RANK].sum(axis=1, min_count=1), strict=True)
    return {prompt_id: None if pd.isna(rank) else bool(rank == 1) for prompt_id, rank in ranks}


def _tracks(
    lens: pa.Table, prompts: dict[str, dict[str, Any]]
) -> Iterator[tuple[tuple[str, str], Track]]:
    columns = ["answer_rank", "category_rank", "null_category_rank", "kl_bits"]
    keys = ["prompt_id", "lens", "layer", "site", "is_last", "top_ids", "answer_ties"]
    frame = lens.select([*keys, *columns]).to_pandas()
    frame["answer_rank"] = frame[_RANK].sum(axis=1, min_count=1)
    frame = frame[frame.is_last & (frame.site != "resid_mid")]
    order = {prompt_id: i for i, prompt_id in enumerate(prompts)}
    lens_order = {name: i for i, name in enumerate(LENSES)}
    groups = frame.groupby(["prompt_id", "lens"], sort=False)
    for key in sorted(groups.groups, key=lambda k: (order[k[0]], lens_order[k[1]])):
        part = groups.get_group(key).sort_values("layer")
        values = {name: part[name].to_numpy(dtype=float) for name in columns}
        top_id = np.array([ids[0] for ids in part.top_ids])
        yield key, Track(prompts[key[0]], part.layer.to_numpy(), top_id=top_id, **values)


def _columns(name: str, reached: int | str, layers: np.ndarray, n_layers: int) -> dict[str, Any]:
    if isinstance(reached, str):
        return {f"{name}_layer": None, f"{name}_depth": None, f"{name}_reason": reached}
    layer = int(layers[reached])
    return {f"{name}_layer": layer, f"{name}_depth": layer / n_layers, f"{name}_reason": None}


def _to_the_end(hit: np.ndarray) -> np.ndarray:
    """Where the unbroken run that ends at the last layer is."""
    run: np.ndarray = np.logical_and.accumulate(hit[::-1])[::-1]
    return run


# To add a milestone: one entry here and one line in records/schema/lens.py.
_MILESTONES = {
    "rank1_first": Milestone(
        lambda t: t.answer_rank == 1, "the answer is never at rank 1", answer=True
    ),
    "rank1_stable": Milestone(
        lambda t: _to_the_end(t.answer_rank == 1),
        "the answer is not at rank 1 after the last layer",
        answer=True,
    ),
    "top10_first": Milestone(
        lambda t: t.answer_rank <= _TOP, "the answer is never in the top 10", answer=True
    ),
    "kl_1bit": Milestone(
        lambda t: t.kl_bits <= _KL_BITS, "never within 1 bit of the model's output"
    ),
    "copy_first": Milestone(
        lambda t: np.isin(t.top_id, t.prompt["token_ids"]),
        "the top token is never one of the prompt",
    ),
    "category_over_answer": Milestone(
        lambda t: t.category_rank < t.answer_rank,
        "the category never outranks the answer",
        answer=True,
        category="category",
    ),
    "category_top10": Milestone(
        lambda t: t.category_rank <= _TOP,
        "the category is never in the top 10",
        category="category",
    ),
    "null_category_top10": Milestone(
        lambda t: t.null_category_rank <= _TOP,
        "the other category is never in the top 10",
        category="null_category",
    ),
}
