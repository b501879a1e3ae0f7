"""Forward passes that begin in the middle: from a block's input, blocks below it not run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.models.forward import Hooks, forward
from lensbench.models.model import LensModel
from lensbench.prompts.batch import Batch


def resumed(
    model: LensModel,
    batch: Batch,
    block: int,
    state: Float[Tensor, "batch pos d_model"],
    hooks: Hooks = (),
) -> Float[Tensor, "batch pos d_vocab"]:
    """The model's logits for a batch whose state before `block` is `state`.

    The model itself makes masks, positions and all else that its blocks are handed; the blocks
    below hand on what they get, at no cost.
    """
    start = (f"blocks.{block}.hook_in", lambda value, hook: state)
    with torch.inference_mode(), _passed_over(model.bridge.blocks[:block]):
        return forward(model.bridge, batch, model.device, [start, *hooks])


@contextmanager
def _passed_over(blocks: Any) -> Iterator[None]:
    """Blocks that return the state they are given, as whoever calls them takes it."""
    for block in blocks:
        vars(block)["forward"] = _same  # past the attributes of what it wraps
    try:
        yield
    finally:
        for block in blocks:
            del vars(block)["forward"]


def _same(*args: Any, **kwargs: Any) -> Tensor:
    state: Tensor = args[0] if args else kwargs["hidden_states"]
    return state


def repeated(batch: Batch, times: int) -> Batch:
    """The same rows several times over, one whole batch after the other."""
    return Batch(
        batch.items * times,
        batch.token_ids.repeat(times, 1),
        batch.attention_mask.repeat(times, 1),
        batch.position_ids.repeat(times, 1),
    )


def replaced(
    block: int, rows: Sequence[tuple[int, slice]], means: Float[Tensor, "head d_head"]
) -> tuple[str, Any]:
    """A hook that puts a head's mean in place of what it gives, behind the first position.

    Args:
        rows: heads, each with the rows of the batch in which it is replaced.
    """

    def put(value: Tensor, hook: object) -> Tensor:
        heads = value.clone().unflatten(-1, means.shape) if value.ndim == 3 else value.clone()
        for head, own in rows:
            heads[own, 1:, head] = means[head].to(value.dtype)
        return heads.view_as(value)

    return f"blocks.{block}.attn.hook_z", put
