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
from lensbench.records.lens.record import answer_place, stands_in_prompt
from lensbench.records.schema.lens import (
    CATEGORY_GIVEN,
    GUESSED,
    MILESTONE_TABLE,
    MUTE_CATEGORY,
    NO_ANSWER,
    NO_CATEGORY,
    NOT_MEASURED,
    READ_AT,
)

_TOP = 10
_KL_BITS = 1.0
_RANK = ["answer_rank", "answer_ties"]  # their sum is the last of the places that the answer shares
_MOST_NAMED = 5  # layers that a reason names


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
    guess_rank: float  # of the answer by the lens' controls; NaN: there is none


@dataclass(frozen=True)
class Milestone:
    """What must hold at a layer, why it never does, and what a prompt must have to be asked it."""

    holds: Callable[[Track], np.ndarray]  # per layer
    reads: tuple[str, ...]  # what of the track it holds of
    never: str
    answer: bool = False
    category: str | None = None  # "category" or "null_category"
    to_the_end: bool = False  # it must hold at all later layers too

    def reached(self, track: Track) -> int | str:
        """The first layer, as an index into `track.layers`, or why there is none.

        What was not measured decides nothing: where it could, the milestone is not measured.
        """
        if self.answer and _nothing(track.prompt, "answer"):
            return NO_ANSWER
        if self.category is not None and (reason := _unasked(track, self.category)):
            return reason
        unknown = np.logical_or.reduce([np.isnan(getattr(track, name)) for name in self.reads])
        if self.reads == ("top_id",) and track.prompt["token_ids"] is None:
            unknown = np.ones(len(unknown), bool)
        hit = self.holds(track) & ~unknown
        seldom, often = self._first(hit), self._first(hit | unknown)
        if seldom != often:
            return _not_measured(track.layers[unknown], unknown.all())
        return self.never if seldom is None else seldom

    def _first(self, hit: np.ndarray) -> int | None:
        hit = _to_the_end(hit) if self.to_the_end else hit
        return int(hit.argmax()) if hit.any() else None


def _nothing(prompt: dict[str, Any], what: str) -> bool:
    """Whether a prompt has no such word, neither as a token nor as text."""
    return prompt[f"{what}_id"] is None and prompt[what] is None


def _unasked(track: Track, category: str) -> str | None:
    """Why a category word cannot be asked for, if it cannot."""
    prompt, ranks = track.prompt, getattr(track, f"{category}_rank")
    token, word, own = prompt[f"{category}_id"], prompt[category], prompt["token_ids"]
    if token is None and word is None:
        return NO_CATEGORY
    if token is None and own is not None and np.isnan(ranks).all():
        return MUTE_CATEGORY
    # A word of the prompt may be copied: that it comes says nothing of knowing.
    return CATEGORY_GIVEN if stands_in_prompt(prompt, category) else None


def _not_measured(layers: np.ndarray, everywhere: bool) -> str:
    if everywhere:
        return NOT_MEASURED
    named = ", ".join(str(layer) for layer in layers[:_MOST_NAMED])
    return f"{NOT_MEASURED} at layer {named}{', ...' if len(layers) > _MOST_NAMED else ''}"


def milestones_table(
    model: str, n_layers: int, lens: pa.Table, prompts: pa.Table, output: str | None = "final"
) -> pa.Table:
    """One row per prompt x lens (records/schema/lens.py: MILESTONE_TABLE).

    Args:
        output: the lens that at the last layer is the model's own output; None: there is none.
    """
    by_id = {row["prompt_id"]: row for row in prompts.to_pylist()}
    top1_correct = _top1_correct(lens, n_layers, output)
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
            row |= _columns(name, milestone.reached(track), track, n_layers)
        rows.append(row)
    return MILESTONE_TABLE.of_rows(rows)


def _top1_correct(lens: pa.Table, n_layers: int, own: str | None) -> dict[str, bool | None]:
    """Whether the model's own output has the answer first, and it alone.

    By its own lens at the last layer.
    """
    columns = ["prompt_id", "lens", "layer", "site", "is_last", *_RANK]
    frame = lens.select(columns).to_pandas()
    output = frame[(frame.lens == own) & (frame.layer == n_layers) & frame.is_last]
    output = output[output.site == "resid_post"]
    ranks = zip(output.prompt_id, answer_place(output), strict=True)
    return {prompt_id: None if pd.isna(rank) else bool(rank == 1) for prompt_id, rank in ranks}


def _tracks(
    lens: pa.Table, prompts: dict[str, dict[str, Any]]
) -> Iterator[tuple[tuple[str, str], Track]]:
    columns = ["answer_rank", "category_rank", "null_category_rank", "kl_bits"]
    keys = ["prompt_id", "lens", "layer", "site", "is_last", "top_ids", "answer_ties"]
    keys.append("answer_guess_rank")
    frame = lens.select([*keys, *columns]).to_pandas()
    frame["answer_rank"] = answer_place(frame)
    frame = frame[frame.is_last & (frame.site != "resid_mid")]
    order = {prompt_id: i for i, prompt_id in enumerate(prompts)}
    lens_order = {name: i for i, name in enumerate(dict.fromkeys([*LENSES, *frame.lens]))}
    groups = frame.groupby(["prompt_id", "lens"], sort=False)
    for key in sorted(groups.groups, key=lambda k: (order[k[0]], lens_order[k[1]])):
        part = groups.get_group(key).sort_values("layer")
        values = {name: part[name].to_numpy(dtype=float) for name in columns}
        top_id = np.array([np.nan if ids is None else ids[0] for ids in part.top_ids], float)
        values["guess_rank"] = part.answer_guess_rank.astype(float).min()
        yield key, Track(prompts[key[0]], part.layer.to_numpy(), top_id=top_id, **values)


def _columns(name: str, reached: int | str, track: Track, n_layers: int) -> dict[str, Any]:
    """A milestone's columns. What a control of the lens reads too, the lens does not count for."""
    layer = None if isinstance(reached, str) else int(track.layers[reached])
    reason = reached if isinstance(reached, str) else None
    guessed: dict[str, int | None] = {}
    if name in READ_AT:
        guessed[f"{name}_guessed_layer"] = None
        if track.guess_rank <= READ_AT[name]:
            guessed[f"{name}_guessed_layer"], layer, reason = layer, None, GUESSED
    depth = None if layer is None else layer / n_layers
    return {
        f"{name}_layer": layer,
        f"{name}_depth": depth,
        f"{name}_reason": reason,
        **guessed,
    }


def _to_the_end(hit: np.ndarray) -> np.ndarray:
    """Where the unbroken run that ends at the last layer is."""
    run: np.ndarray = np.logical_and.accumulate(hit[::-1])[::-1]
    return run


# To add a milestone: one entry here and one line in records/schema/lens.py.
_MILESTONES = {
    "rank1_first": Milestone(
        lambda t: t.answer_rank == 1,
        ("answer_rank",),
        "the answer is never at rank 1",
        answer=True,
    ),
    "rank1_stable": Milestone(
        lambda t: t.answer_rank == 1,
        ("answer_rank",),
        "the answer is not at rank 1 after the last layer",
        answer=True,
        to_the_end=True,
    ),
    "top10_first": Milestone(
        lambda t: t.answer_rank <= _TOP,
        ("answer_rank",),
        "the answer is never in the top 10",
        answer=True,
    ),
    "kl_1bit": Milestone(
        lambda t: t.kl_bits <= _KL_BITS, ("kl_bits",), "never within 1 bit of the model's output"
    ),
    "copy_first": Milestone(
        lambda t: np.isin(t.top_id, t.prompt["token_ids"] or []),
        ("top_id",),
        "the top token is never one of the prompt",
    ),
    "category_over_answer": Milestone(
        lambda t: t.category_rank < t.answer_rank,
        ("category_rank", "answer_rank"),
        "the category never outranks the answer",
        answer=True,
        category="category",
    ),
    "category_top10": Milestone(
        lambda t: t.category_rank <= _TOP,
        ("category_rank",),
        "the category is never in the top 10",
        category="category",
    ),
    "null_category_top10": Milestone(
        lambda t: t.null_category_rank <= _TOP,
        ("null_category_rank",),
        "the other category is never in the top 10",
        category="null_category",
    ),
}
