"""How long queries and keys are where they meet: a score is both lengths and the angle between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.report.walk.numbers import Attention
from lensbench.walkthrough.seen import values_of

# TransformerLens' hook points, [batch, pos, head, d_head]: turned, and where nothing is.
_PAIRS = (("attn.hook_rot_q", "attn.hook_rot_k"), ("attn.hook_q", "attn.hook_k"))
_NEAR = 1e-2  # relative to the largest score: half precision rounds by .4 %

Heads = Float[Tensor, "pos head d_head"]


def with_lengths(model: LensModel, ids: Sequence[int], attention: Attention) -> Attention:
    """With the lengths of every head's queries and keys.

    Left out of a family where their scaled (and capped) products are not the scores.
    """
    seen = values_of(model, ids, [kind for pair in _PAIRS for kind in pair])
    found = [_of_block(model, seen, block, attention) for block in range(model.n_layers)]
    each = [one for one in found if one is not None]
    if len(each) < len(found):
        return attention
    q, k = (np.stack([pair[side] for pair in each]) for side in (0, 1))
    return replace(attention, query_lengths=q, key_lengths=k)


def _of_block(
    model: LensModel, seen: Mapping[Site, Tensor], block: int, attention: Attention
) -> tuple[np.ndarray, np.ndarray] | None:
    """Lengths [head, pos] of queries and of keys, from whichever pair gives the scores."""
    for names in _PAIRS:
        both = [seen.get(Site(name, block + 1)) for name in names]
        if any(one is None or one.ndim != 4 for one in both):
            continue
        q, k = (one[0].float() for one in both if one is not None)
        if model.n_heads % k.shape[1]:
            continue
        k = k.repeat_interleave(model.n_heads // k.shape[1], dim=1)
        if q.shape == k.shape and _are_scores(q, k, attention, block):
            return q.norm(dim=-1).T.cpu().numpy(), k.norm(dim=-1).T.cpu().numpy()
    return None


def _are_scores(q: Heads, k: Heads, attention: Attention, block: int) -> bool:
    if attention.scale is None:
        return False
    made = attention.scale * torch.einsum("qhd,khd->hqk", q, k).cpu().numpy()
    if attention.cap is not None:
        made = attention.cap * np.tanh(made / attention.cap)
    own = attention.scores[block]
    seen = np.isfinite(own)  # neither beyond a window nor later
    made = made[:, *np.tril_indices(len(q))]
    return bool(np.abs(made - own)[seen].max() <= _NEAR * np.abs(own[seen]).max())
