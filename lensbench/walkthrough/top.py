"""The highest numbers of each row of a table that is too wide to be made at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def top_of_tiles(
    tiles: Iterable[Float[Tensor, "row tile"]], k: int
) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
    """Columns and values of each row's k highest, from tiles side by side."""
    start, best = 0, list[tuple[Tensor, Tensor]]()
    for tile in tiles:
        top = tile.topk(min(k, tile.shape[1]))
        best.append((top.indices + start, top.values))
        start += tile.shape[1]
    columns, values = (torch.cat(part, dim=1) for part in zip(*best, strict=True))
    top = values.topk(k)
    return columns.gather(1, top.indices), top.values
