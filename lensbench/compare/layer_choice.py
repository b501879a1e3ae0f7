"""Which contiguous blocks changed most: a stated rule, with its uncertainty.

Layer i of a record is what block i - 1 puts out, blocks counted from 0 as training does: the
change at layers 16 to 21 is that of blocks 15 to 20.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from lensbench.stats.resampling import Floats, percentiles

STABLE_SHARE = 0.1  # of the curve's range: within this, the curve no longer changes
RULE = (
    "the contiguous blocks whose outputs changed most on average; of equal ones the lowest. "
    "With several controls a layer's change is the smallest over them"
)


@dataclass(frozen=True)
class Choice:
    """Contiguous blocks, counted from 0, and how firm the choice is."""

    blocks: tuple[int, ...]
    mean_change: float
    again_share: float | None  # of the bootstrap draws that choose the same blocks
    overlap_share: float | None  # of the chosen blocks that a draw's own choice shares, on average
    runner_up: tuple[int, ...] | None  # the next best
    runner_up_change: float | None
    apart: tuple[int, ...] | None  # the best that shares no block with the choice
    apart_change: float | None


def block_means(
    layers: Float[np.ndarray, "*draw layer"], n_blocks: int
) -> Float[np.ndarray, "*draw start"]:
    """Mean over the outputs of blocks start to start + n_blocks - 1; layer 0 is no block's."""
    outputs = layers[..., 1:]
    return np.lib.stride_tricks.sliding_window_view(outputs, n_blocks, axis=-1).mean(-1)


def choose(
    values: Float[np.ndarray, " layer"],
    draws: Float[np.ndarray, "draw layer"] | None,
    n_blocks: int,
) -> Choice | None:
    """The blocks that changed most; None where no window of blocks has values throughout.

    `values` is the change at each layer, from 0 (the embedding); `draws` the same over prompts
    drawn again.
    """
    means = np.nan_to_num(block_means(values, n_blocks), nan=-np.inf)
    best = int(means.argmax())
    if np.isinf(means[best]):
        return None
    order = np.argsort(-means, kind="stable")
    order = order[np.isfinite(means[order])]
    second = int(order[1]) if len(order) > 1 else None
    apart = next((int(start) for start in order if abs(start - best) >= n_blocks), None)
    again, overlap = _again(draws, best, n_blocks)
    return Choice(
        blocks=_blocks(best, n_blocks),
        mean_change=float(means[best]),
        again_share=again,
        overlap_share=overlap,
        runner_up=None if second is None else _blocks(second, n_blocks),
        runner_up_change=None if second is None else float(means[second]),
        apart=None if apart is None else _blocks(apart, n_blocks),
        apart_change=None if apart is None else float(means[apart]),
    )


def _blocks(start: int, n_blocks: int) -> tuple[int, ...]:
    return tuple(range(start, start + n_blocks))


def _again(draws: Floats | None, best: int, n_blocks: int) -> tuple[float | None, float | None]:
    """How often draws choose the same blocks, and the share of blocks that they have in common."""
    if draws is None:
        return None, None
    starts = np.nan_to_num(block_means(draws, n_blocks), nan=-np.inf).argmax(-1)
    shared = np.maximum(n_blocks - np.abs(starts - best), 0) / n_blocks
    return float((starts == best).mean()), float(shared.mean())


def stable_from(
    values: Float[np.ndarray, " layer"],
    draws: Float[np.ndarray, "draw layer"] | None,
    n_groups: int,
) -> int | None:
    """The first layer from which on the curve stays where it ends, or None.

    `draws` are of so many groups of prompts.

    It stays where the whole 95 % interval of its difference from the last layer lies within a
    tenth of the curve's range, at this layer and all later ones: that it is the same is shown, not
    merely not refuted. The last layer itself does not count.
    """
    if draws is None or np.isnan(values[1:]).any():
        return None
    low, high = percentiles(draws - draws[:, -1:], n_groups)
    bound = STABLE_SHARE * float(np.ptp(values[1:]))
    steady = (low >= -bound) & (high <= bound)
    moving = np.flatnonzero(~steady[1:-1])  # among layers 1 to the one before the last
    first = int(moving[-1]) + 2 if len(moving) else 1
    return first if first < len(values) - 1 else None


def choice_file(choice: Choice, why: str, provenance: dict[str, Any]) -> dict[str, Any]:
    """What `lensbench train --blocks auto:FILE` takes, with the reason and where it is from."""
    return {
        "layers": list(choice.blocks),
        "counted_from": 0,
        "record_layers": [block + 1 for block in choice.blocks],
        "why": why,
        "rule": RULE,
        "mean_change": choice.mean_change,
        "bootstrap_same_share": choice.again_share,
        "bootstrap_overlap_share": choice.overlap_share,
        "runner_up": list(choice.runner_up) if choice.runner_up else None,
        "best_without_overlap": list(choice.apart) if choice.apart else None,
        "provenance": provenance,
    }
