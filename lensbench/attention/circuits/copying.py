"""Copying: does a head that looks at a token make that token likelier, or less likely?

The full OV circuit of a head, from a token that it looks at to the logits of all tokens, is
W_E W_V W_O W_U (Elhage et al. 2021, "A mathematical framework for transformer circuits", section
"copying"). It has d_vocab x d_vocab numbers and is never made: its eigenvalues other than 0 are
those of W_O (W_U W_E) W_V, which has d_head x d_head.

W_E here is each token's embedding as the block's norm would hand it on if nothing else stood in the
stream; that of the first block is what it really reads, later blocks read more. Positions and MLPs
are left out. What is folded and what is not: `weights`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.attention.circuits.weights import (
    HeadWeights,
    directions,
    head_weights,
    norm_before,
)
from lensbench.checkpoints.devices import wide
from lensbench.models.model import LensModel

N_TOKENS = 512  # a sample of the vocabulary, of which ranks are taken
N_RANDOM = 200  # heads drawn at random
SEED = 0
_TILE = 1024  # tokens of the vocabulary at once


@dataclass(frozen=True)
class Copying:
    """Of a block's heads."""

    block: int
    eigenvalues: Float[Tensor, " head"]  # -1..1
    own_rank: Float[Tensor, " head"]  # 0..1


def copying(model: LensModel, n_tokens: int = N_TOKENS) -> Iterator[Copying]:
    """Of each block in turn: two measures of copying, each with both signs.

    `eigenvalues`: the sum of the eigenvalues of the OV circuit over the sum of their absolute
    values, -1..1: 1 copies, -1 suppresses, 0 neither (Elhage et al. 2021).

    `own_rank`: looking at a token, the share of other tokens whose logit it raises less than that
    one's own, mean over `n_tokens` tokens drawn from the vocabulary: 1 copies, 0 suppresses,
    .5 neither. Without the norms' scale, so each token counts alike.
    """
    rng = np.random.default_rng(SEED)
    drawn = rng.choice(model.d_vocab, size=min(n_tokens, model.d_vocab), replace=False)
    tokens = torch.from_numpy(np.sort(drawn)).to(model.device)
    read_out = directions(model, tokens)  # [d_model, token]
    pairs: dict[bool, Float[Tensor, "d_model d_model"]] = {}  # by whether the norm centres
    with torch.inference_mode():
        for heads in head_weights(model):
            norm = norm_before(model, heads.block)
            centres = norm is not None and norm.centres
            if centres not in pairs:
                pairs[centres] = unembed_embed(model, centres)
            # Both sides first: they are d_head wide in the middle, and d_model outside.
            said = (_embedded(model, tokens, centres) @ heads.v) @ (heads.o @ read_out)
            yield Copying(heads.block, eigenvalue_ratio(heads, pairs[centres]), own_rank(said))


def unembed_embed(model: LensModel, centres: bool) -> Float[Tensor, "d_model d_model"]:
    """W_U W_E, a tile of the vocabulary at a time."""
    total = torch.zeros(model.d_model, model.d_model, device=model.device)
    for start in range(0, model.d_vocab, _TILE):
        tile = slice(start, min(start + _TILE, model.d_vocab))
        total += directions(model, tile) @ _embedded(model, tile, centres)
    return total


def _embedded(
    model: LensModel, tokens: slice | Tensor, centres: bool
) -> Float[Tensor, "token d_model"]:
    """Embeddings at the length that a norm gives them; its weight is folded elsewhere.

    In float64, in which no square of a float32 overflows: a token would be at zero for it.
    """
    rows = wide(model.bridge.W_E[tokens])
    rows = rows - rows.mean(-1, keepdim=True) if centres else rows
    return (rows / rows.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)).float()


def eigenvalue_ratio(
    heads: HeadWeights, unembed_embedded: Float[Tensor, "d_model d_model"]
) -> Float[Tensor, " head"]:
    """Sum over sum of absolute values of the eigenvalues of W_E W_V W_O W_U, -1..1.

    NaN of a head where something in that is NaN or Inf.
    """
    small = (heads.o @ unembed_embedded @ heads.v).cpu().double()  # [head, d_head, d_head]
    finite = small.isfinite().all(-1).all(-1)
    values = torch.linalg.eigvals(small.where(finite[:, None, None], 0.0))
    ratio = values.real.sum(-1) / values.abs().sum(-1).clamp(min=1e-300)
    return ratio.where(finite, torch.nan).float()


def own_rank(said: Float[Tensor, "head token token"]) -> Float[Tensor, " head"]:
    """Where each row's own column ranks among the others, 0 lowest to 1 highest; ties are half.

    NaN of a head that says NaN or Inf of a token.
    """
    own = said.diagonal(dim1=-2, dim2=-1)[..., None]
    below = (said < own).sum(-1) + 0.5 * ((said == own).sum(-1) - 1)
    rank = below.float().mean(-1) / (said.shape[-1] - 1)
    return rank.where(said.isfinite().all(-1).all(-1), torch.nan)
