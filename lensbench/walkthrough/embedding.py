"""The second step: a token's row of the embedding, and the rows that point where it does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.devices import wide
from lensbench.models.model import LensModel
from lensbench.report.walk.numbers import Embedding
from lensbench.walkthrough.top import top_of_tiles

N_NEIGHBOURS = 8
_TILE = 8192  # rows of the embedding at once
_OFFSETS = (0, 2)  # of a table of positions: OPT's first row is the third
_EXACT = 1e-5  # relative: what is left over is rounding


@torch.inference_mode()
def read_embedding(
    model: LensModel, ids: Sequence[int], x: Float[Tensor, "pos d_model"]
) -> Embedding:
    """What x, the stream before the first block, is made of; and each token's nearest neighbours.

    Which scale and which rows of positions it has is measured, for families say it in many ways.
    """
    rows = model.bridge.W_E[list(ids)].float()
    scale, added = _made_of(model, x, rows)
    neighbours, cosines = _neighbours(model, ids)
    return Embedding(
        vectors=x.cpu().numpy(),
        scale=scale,
        row_norms=rows.norm(dim=-1).cpu().numpy(),
        position_norms=None if added is None else added.norm(dim=-1).cpu().numpy(),
        rest=_rest(x, rows, scale, added),
        neighbour_ids=neighbours.cpu().numpy(),
        neighbour_cosines=cosines.cpu().numpy(),
    )


def _made_of(
    model: LensModel, x: Float[Tensor, "pos d_model"], rows: Float[Tensor, "pos d_model"]
) -> tuple[float, Float[Tensor, "pos d_model"] | None]:
    """The number by which rows are multiplied, and the rows of positions that are added."""
    found = [(_scale(x, rows), None), *_with_positions(model, x, rows)]
    return next((one for one in found if _rest(x, rows, *one) < _EXACT), found[0])


def _rest(
    x: Float[Tensor, "pos d_model"],
    rows: Float[Tensor, "pos d_model"],
    scale: float,
    added: Float[Tensor, "pos d_model"] | None,
) -> float:
    """What of x they leave unexplained, as a share of its length."""
    return float((x - scale * rows - (0.0 if added is None else added)).norm() / x.norm())


def _with_positions(
    model: LensModel, x: Float[Tensor, "pos d_model"], rows: Float[Tensor, "pos d_model"]
) -> list[tuple[float, Float[Tensor, "pos d_model"] | None]]:
    try:
        table = model.bridge.W_pos
    except AttributeError:  # TransformerLens' way to say that there is none
        return []
    starts = [start for start in _OFFSETS if start + len(x) <= len(table)]
    added = [table[start : start + len(x)].float() for start in starts]
    return [(_scale(x - own, rows), own) for own in added if own.shape == x.shape]


def _scale(x: Float[Tensor, "pos d_model"], rows: Float[Tensor, "pos d_model"]) -> float:
    """By which rows are nearest to x."""
    return float((wide(x) * rows).sum() / wide(rows).square().sum())


def _neighbours(model: LensModel, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Ids and cosines [pos, k] of the other rows that point most nearly where a token's does."""
    table = model.bridge.W_E
    own = _units(table[list(ids)].float())
    asked = torch.tensor(list(ids), device=own.device)

    def tile(start: int) -> Float[Tensor, "pos row"]:
        cosines = own @ _units(table[start : start + _TILE].float()).T
        places = torch.arange(start, start + cosines.shape[1], device=own.device)
        return cosines.masked_fill_(places == asked[:, None], -torch.inf)

    k = min(N_NEIGHBOURS, len(table) - 1)
    return top_of_tiles(map(tile, range(0, len(table), _TILE)), k)


def _units(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Of length 1; a row of nothing stays nothing."""
    return torch.nn.functional.normalize(rows, dim=-1)
