"""Weights of heads as maps of the residual stream, with the norms around them folded in.

A norm is `centre, divide by the length, multiply by a weight, add a bias`. Its centring and weight
are folded into the matrix behind it (for the norm that some families put behind attention, before
it). Its division by the length, one positive number for each position, and its bias, which is the
same for every token, are left out: what is said here is of the linear part. So are rotations of
queries and keys by position, and the norms that Qwen 3 and Gemma 3 put on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from lensbench.checkpoints.stored.offload import in_memory
from lensbench.errors import ModelError, refused_by_library
from lensbench.models.model import LensModel
from lensbench.models.readout import EVERY, Norm, Tokens, float32_norm
from lensbench.models.sites import Site

_FAR = 1e3  # so large that no norm's epsilon matters
_CLOSE = 1e-4  # relative, of a norm and of its parts put together


@dataclass(frozen=True)
class NormParts:
    """norm(x) = centred(x) / length(x) * weight + bias, as far as float32 goes."""

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centres: bool

    def centred(self, x: Float[Tensor, "*cell d_model"]) -> Float[Tensor, "*cell d_model"]:
        """Less its mean over dimensions, if the norm takes that away (LayerNorm)."""
        return x - x.mean(-1, keepdim=True) if self.centres else x

    def before(self, matrix: Float[Tensor, "*head d_model k"]) -> Float[Tensor, "*head d_model k"]:
        """A matrix behind the norm, with the norm's linear part folded in."""
        return self.centred((self.weight[:, None] * matrix).mT).mT

    def behind(self, matrix: Float[Tensor, "*head k d_model"]) -> Float[Tensor, "*head k d_model"]:
        """A matrix in front of the norm, with the norm's linear part folded in."""
        return self.centred(matrix) * self.weight


def norm_parts(norm: Norm, d_model: int, device: torch.device) -> NormParts:
    """The parts of a norm, measured: any module that is such a norm has them, whatever its class.

    Raises ModelError for one that is not.
    """
    generator = torch.Generator().manual_seed(0)
    x = _FAR * torch.randn(3, d_model, generator=generator).to(device)
    bias = norm(torch.zeros_like(x[:1]))[0].detach()
    centres = bool(torch.allclose(norm(x), norm(x + _FAR), rtol=_CLOSE, atol=_CLOSE))
    parts = NormParts(torch.ones_like(bias), bias, centres)
    # Vectors other than those that are tested: every centred number is far from 0.
    sides = torch.where(torch.arange(d_model, device=device) % 2 == 0, _FAR, -_FAR)
    centred = parts.centred(sides)
    weight = (norm(sides[None])[0].detach() - bias) * _length(centred) / centred
    parts = NormParts(weight, bias, centres)
    whole, again = norm(x).detach(), parts.centred(x) / _length(parts.centred(x)) * weight + bias
    if not torch.allclose(again, whole, rtol=_CLOSE, atol=_CLOSE * float(whole.abs().max())):
        raise ModelError("a norm of this model is no RMSNorm or LayerNorm, so it cannot be folded")
    return parts


def _length(x: Float[Tensor, "*cell d"]) -> Float[Tensor, "*cell 1"]:
    return x.square().mean(-1, keepdim=True).sqrt()


@dataclass(frozen=True)
class HeadWeights:
    """Of a block's heads, float32; shared keys and values once for each head that uses them."""

    block: int
    q: Float[Tensor, "head d_model d_head"]
    k: Float[Tensor, "head d_model d_head"]
    v: Float[Tensor, "head d_model d_head"]
    o: Float[Tensor, "head d_head d_model"]


def head_weights(model: LensModel) -> Iterator[HeadWeights]:
    """Of each block in turn, norms folded.

    Raises ModelError for a block without such matrices, or with packed numbers.
    """
    for number in range(len(model.bridge.blocks)):
        yield _folded(model, number)


def _folded(model: LensModel, block: int) -> HeadWeights:
    q, k, v, o = raw_weights(model, block)
    into, out = norm_before(model, block), norm_behind(model, model.bridge.blocks[block])
    q, k, v = (one if into is None else into.before(one) for one in (q, k, v))
    return HeadWeights(block, q, k, v, o if out is None else out.behind(o))


def raw_weights(model: LensModel, block: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_Q, W_K, W_V [head, d_model, d_head] and W_O [head, d_head, d_model] of a block, float32.

    Raises ModelError as `head_weights`.
    """
    q, k, v, o = (one.float() for one in stored_weights(model, block))
    k, v = (one.repeat_interleave(len(q) // len(one), dim=0) for one in (k, v))
    return q, k, v, o


def stored_weights(model: LensModel, block: int) -> list[Tensor]:
    """The same as the model has them: in its dtype, shared keys and values once; no copies.

    Raises ModelError as `head_weights`.
    """
    what = f"the heads of block {block} of {model.name} have no weights to read"
    remedy = "Read it unquantised, with its adapter merged; state-space blocks have no heads."
    attention = getattr(model.bridge.blocks[block], "attn", None)
    with refused_by_library(what, remedy), in_memory(attention):
        made_by = [getattr(attention, name, None) for name in ("q", "k", "v", "o")]
        raw = [getattr(attention, name).detach() for name in ("W_Q", "W_K", "W_V", "W_O")]
    # An adapter is beside the weight, and packed numbers stand for others.
    kinds = {type(getattr(one, "original_component", None)) for one in made_by}
    plain = all(one.is_floating_point() and one.ndim == 3 for one in raw)
    if not plain or not kinds <= {NoneType, torch.nn.Linear, Conv1D}:
        raise ModelError(f"{what}. {remedy}")
    return raw


def norm_before(model: LensModel, block: int) -> NormParts | None:
    """Of the norm through which a block's attention reads the stream; None where there is none."""
    norm = model.next_norms.get(Site.state(block))
    return None if norm is None else norm_parts(norm, model.d_model, model.device)


def norm_behind(model: LensModel, block: Any) -> NormParts | None:
    """Of the norm between a block's attention and the stream, which few families have."""
    module = getattr(block, "ln1_post", None)
    return None if module is None else norm_parts(float32_norm(module), model.d_model, model.device)


def directions(model: LensModel, tokens: Tokens = EVERY) -> Float[Tensor, "d_model token"]:
    """Along which of the stream's directions each token's logit grows, final norm folded."""
    final = norm_parts(model.readout.norm, model.d_model, model.device)
    return final.before(model.readout.W_U.T[tokens].T.float())
