"""Batches: prompts of similar length, padded, with what keeps padding from mattering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class Batch:
    """Token ids with padding. `items` says which prompt each row is, by index."""

    items: list[int]
    token_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    position_ids: Int[Tensor, "batch pos"]

    def column(self, row: int, position: int) -> int:
        """Where a prompt's `position` (counted without padding, negative from its end) stands."""
        length = int(self.attention_mask[row].sum())
        first = int(self.attention_mask[row].argmax())
        return first + (position if position >= 0 else length + position)


def make_batch(
    items: Sequence[int],
    token_ids: Sequence[Sequence[int]],
    padding_side: PaddingSide = "right",
    pad_id: int = 0,
) -> Batch:
    """Pad `token_ids[item]` for every item to one length. Any `pad_id` does: it is masked."""
    rows = [list(token_ids[item]) for item in items]
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        columns = slice(0, len(row)) if padding_side == "right" else slice(width - len(row), width)
        ids[i, columns] = torch.tensor(row)
        mask[i, columns] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return Batch(list(items), ids, mask, positions)


def plan_batches(
    lengths: Sequence[int], batch_tokens: int, switch: int | None = None
) -> list[list[int]]:
    """Group prompts of similar length so that each padded batch has at most `batch_tokens` tokens.

    The plan depends on the arguments alone, so a resumed run makes the same batches. A prompt
    longer than `batch_tokens` gets a batch of its own. Prompts of more than `switch` tokens, which
    the model reads by other rotary frequencies, are together with no shorter ones.
    """
    batches: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        # Sorted by length, so the newest prompt sets the padded width of its batch.
        fits = bool(batches) and (len(batches[-1]) + 1) * lengths[item] <= batch_tokens
        if fits and not (switch and lengths[batches[-1][0]] <= switch < lengths[item]):
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches
