"""The third step: how a model knows where a token stands. Rotary angles are the model's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.report.walk.numbers import Kind, Positions, Rotation
from lensbench.walkthrough.seen import values_of

_COS, _SIN = (
    "attn.hook_cos",
    "attn.hook_sin",
)  # TransformerLens' hook points: [batch, pos, d_rotary]
_NAMED: dict[str, Kind] = {"standard": "learned", "alibi": "alibi"}


def read_positions(model: LensModel, ids: Sequence[int], learned: bool) -> Positions:
    """The angles of every block that turns its queries and keys; `learned`: rows are added."""
    read = list(ids) if len(ids) > 1 else [*ids, *ids]  # position 1 says how fast they turn
    seen = values_of(model, read, (_COS, _SIN))
    rotations: list[Rotation] = []
    of_block: list[int | None] = []
    for layer in range(1, model.n_layers + 1):
        cos, sin = seen.get(Site(_COS, layer)), seen.get(Site(_SIN, layer))
        if cos is None or sin is None:
            of_block.append(None)
            continue
        own = _rotation(model, cos, sin, len(ids))
        same = [i for i, one in enumerate(rotations) if _alike(one, own)]
        of_block.append(same[0] if same else len(rotations))
        rotations += [] if same else [own]
    if rotations:
        return Positions("rotary", rotations, of_block)
    named = str(getattr(model.bridge.cfg, "positional_embedding_type", ""))
    return Positions("learned" if learned else _NAMED.get(named, "unseen"))


def _rotation(model: LensModel, cos: Tensor, sin: Tensor, n: int) -> Rotation:
    """Of one block; cosines and sines stand twice each, half by half or side by side."""
    cos, sin = (one.float().reshape(-1, one.shape[-1]) for one in (cos, sin))
    half = cos.shape[1] // 2
    cfg = model.bridge.cfg
    adjacent = any(
        getattr(cfg, name, False)
        for name in ("rotary_interleaved_cos_sin", "rotary_adjacent_pairs")
    )
    pairs: slice = slice(0, half)
    if torch.equal(cos[:, 0::2], cos[:, 1::2]) and torch.equal(sin[:, 0::2], sin[:, 1::2]):
        pairs = slice(0, None, 2)
    elif not torch.equal(cos[:, :half], cos[:, half:]):
        pairs = slice(None)  # each stands once (gpt-oss)
    angles: Float[Tensor, "pos pair"] = torch.atan2(sin[:, pairs], cos[:, pairs])
    length = float(torch.hypot(sin[0, 0], cos[0, 0]))
    return Rotation(angles[:n].cpu().numpy(), angles[1].cpu().numpy(), adjacent, length)


def _alike(one: Rotation, other: Rotation) -> bool:
    same = one.angles.shape == other.angles.shape and one.length == other.length
    return same and bool((one.angles == other.angles).all())
