"""What a head moves: the length of each token's value, once written through the head's output."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.attention.scores import Pattern
from lensbench.checkpoints.stored.offload import in_memory
from lensbench.errors import ModelError
from lensbench.models.model import LensModel
from lensbench.models.sites import Site

VALUES = "attn.hook_v"  # TransformerLens' hook point: [batch, pos, key-value head, d_head]

Values = Float[Tensor, "*batch pos kv_head d_head"]
Lengths = Float[Tensor, "head key"]


def value_site(layer: int) -> Site:
    """Where a block's values are seen."""
    return Site(VALUES, layer)


class Outputs:
    """The output projections of a model's heads, as far as lengths go.

    `||v W_O|| = ||v R^T||` with `W_O^T = Q R`: d_head numbers in place of d_model.
    """

    def __init__(self, model: LensModel) -> None:
        self._model = model
        self._factor = lru_cache(maxsize=None)(self._made)

    def lengths(self, layer: int, values: Values) -> Lengths:
        """`||v W_O||` of every head and token of one prompt.

        Of grouped queries, each head has the value of its group. Raises ModelError for a model
        whose values or output projections cannot be read head by head.
        """
        factor = self._factor(layer)
        return lengths_of(per_head(values.float(), len(factor), self._model, layer), factor)

    def _made(self, layer: int) -> Float[Tensor, "head rank d_head"]:
        return factor_of(output_weight(self._model, layer))


def factor_of(weight: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, "head rank d_head"]:
    """R of each head's `W_O^T = Q R`: it makes values as long as `W_O` does."""
    return torch.linalg.qr(weight.mT, mode="r").R


def lengths_of(
    values: Float[Tensor, "pos head d_head"], factor: Float[Tensor, "head rank d_head"]
) -> Lengths:
    """`||v W_O||` of every head and token, by the factors of the output projections."""
    return torch.einsum("phd,hed->hpe", values, factor).norm(dim=-1)


def output_weight(model: LensModel, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """W_O of each head of the block before a layer, float32.

    Raises ModelError for what packs its numbers, or has heads of several widths.
    """
    attention = getattr(model.bridge.blocks[layer - 1], "attn", None)
    try:
        with in_memory(attention):
            weight = attention.W_O  # type: ignore[union-attr]
    except (AttributeError, ValueError, RuntimeError) as error:
        raise _unreadable(model, layer, str(error)) from error
    if not isinstance(weight, Tensor) or weight.ndim != 3:
        raise _unreadable(model, layer, "its output projection is not parted into heads")
    return weight.detach().float()


def per_head(
    values: Values, n_heads: int, model: LensModel, layer: int
) -> Float[Tensor, "*batch pos head d_head"]:
    """Values with an axis of as many heads as queries have. Raises ModelError."""
    groups, rest = divmod(n_heads, values.shape[-2] if values.ndim > 2 else n_heads + 1)
    if rest or not groups:
        shape = "x".join(map(str, values.shape))
        raise _unreadable(model, layer, f"its values ({shape}) are not those of {n_heads} heads")
    return values.repeat_interleave(groups, dim=-2)


def moved(pattern: Pattern, lengths: Lengths) -> Pattern:
    """The share of what a head moves to a query that comes from each key.

    A weight times the length of what it moves, `||a v W_O||` (Kobayashi et al. 2020), over the sum
    of these in the row, so that a head is scored as by its plain pattern.
    """
    weighted = pattern * lengths[:, None]
    return weighted / weighted.sum(-1, keepdim=True)


def _unreadable(model: LensModel, layer: int, why: str) -> ModelError:
    return ModelError(
        f"{model.name}: what the heads of block {layer - 1} move cannot be read ({why}). Ask for "
        'the plain weighting alone: --weighting plain, weightings="plain".'
    )
