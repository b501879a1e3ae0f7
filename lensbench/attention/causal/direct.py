"""Direct effect of heads on an answer's logit: what each adds to it by the stream alone.

The final norm divides by a length that all parts together have; held at that value the logit is a
sum of parts (direct logit attribution: Elhage et al. 2021; `transformer_lens.tools.analysis`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.attention.circuits.weights import (
    NormParts,
    directions,
    norm_behind,
    norm_parts,
    raw_weights,
)
from lensbench.models.model import LensModel
from lensbench.models.readout import Norm, float32_norm
from lensbench.models.sites import Site
from lensbench.prompts.batch import make_batch, plan_batches
from lensbench.residuals.capture import watch

FINAL = -1
_TILE = 8192  # tokens of the vocabulary at once


@torch.inference_mode()
def direct_effects(
    model: LensModel,
    token_ids: Sequence[Sequence[int]],
    answers: Sequence[int],
    batch_tokens: int = 512,
) -> Float[Tensor, "prompt block head"]:
    """What each head adds, at the last position, to the answer's logit above the mean logit.

    In the unit of logits, before a soft cap. Above the mean over the vocabulary, since what raises
    every logit alike changes nothing. Biases belong to no head.

    Args:
        answers: of each prompt, the token that is asked for.

    Raises ModelError where heads have no weights to read (packed numbers, an adapter beside them).
    """
    wanted = directions(model, torch.tensor(answers, device=model.device)).T
    towards = (wanted - mean_direction(model)) * model.readout.logit_scale  # [prompt, d_model]
    found = torch.empty(len(token_ids), model.n_layers, model.n_heads)
    for items in plan_batches([len(ids) for ids in token_ids], batch_tokens, model.rope_switch):
        found[items] = _of_batch(model, [token_ids[i] for i in items], towards[items]).cpu()
    return found


def mean_direction(model: LensModel) -> Float[Tensor, " d_model"]:
    """Along which the mean logit grows."""
    tiles = [slice(i, min(i + _TILE, model.d_vocab)) for i in range(0, model.d_vocab, _TILE)]
    return torch.stack([directions(model, tile).sum(-1) for tile in tiles]).sum(0) / model.d_vocab


def _of_batch(
    model: LensModel, token_ids: Sequence[Sequence[int]], towards: Float[Tensor, "prompt d_model"]
) -> Float[Tensor, "prompt block head"]:
    rows, ends = range(len(token_ids)), [len(ids) - 1 for ids in token_ids]
    blocks = list(model.bridge.blocks)
    behind = [norm_behind(model, block) for block in blocks]
    scale = float(getattr(model.hf_config, "residual_multiplier", 1.0))  # Granite's
    effects: list[Float[Tensor, "prompt head"]] = []
    normed: dict[int, Float[Tensor, "prompt d_model"]] = {}  # what goes into a norm, by block

    def see(site: Site, value: Tensor) -> None:
        own, block = value[rows, ends].float(), site.layer - 1
        if site.kind != "attn.hook_z":
            normed[FINAL if site == model.final_site else block] = own
            return
        norm, heads = behind[block], own.reshape(len(rows), model.n_heads, -1)
        along = towards if norm is None else norm.before(towards.T).T
        each = torch.einsum("hkd,bd->bhk", raw_weights(model, block)[3], along)
        effects.append(scale * (heads * each).sum(-1))

    sites = [Site("attn.hook_z", layer) for layer in range(1, model.n_layers + 1)]
    sites += [Site("ln1_post.hook_in", i + 1) for i, norm in enumerate(behind) if norm is not None]
    watch(model, make_batch(rows, token_ids), [*sites, model.final_site], see)
    for block, parts in enumerate(behind):
        if parts is not None:
            effects[block] /= divisor(float32_norm(blocks[block].ln1_post), parts, normed[block])
    final = norm_parts(model.readout.norm, model.d_model, model.device)
    length = divisor(model.readout.norm, final, normed[FINAL])
    return torch.stack(effects, dim=1) / length[..., None]


def divisor(
    norm: Norm, parts: NormParts, x: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row 1"]:
    """By what the norm divides each row: its length, epsilon included."""
    folded = parts.centred(x) * parts.weight
    return folded.norm(dim=-1, keepdim=True) / (norm(x) - parts.bias).norm(dim=-1, keepdim=True)
