"""What prompts of a batch have in common at their start: run once, kept as keys and values.

A chat template's system prompt or a few-shot block is the same in every prompt. Its states depend
on nothing after it, so that one pass over it serves all (Hugging Face's own cache of keys and
values). Numbers are those of whole prompts within the rounding of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lensbench.models.forward import forward, worst_kl_bits
from lensbench.models.readout import KL_BITS
from lensbench.prompts.batch import make_batch

LEAST = 16  # tokens: a shorter pass costs as much in calls as it saves
_LONGEST_PROBE = 1024
_SUFFIXES = (5, 2)  # tokens of the probe's prompts behind their prefix


def common_prefix(token_ids: Sequence[Sequence[int]]) -> int:
    """With how many of the same tokens all of several prompts begin; each keeps one of its own.

    0 where it is not worth a pass of its own.
    """
    if len(token_ids) < 2:
        return 0
    shortest = min(map(len, token_ids)) - 1
    first = token_ids[0]
    n = next((i for i in range(shortest) if any(ids[i] != first[i] for ids in token_ids)), shortest)
    return n if n >= LEAST else 0


def empty_cache(bridge: Any) -> Any:
    """Of keys and values: each pass that is given it reads and adds to it."""
    from transformers import DynamicCache

    return DynamicCache(config=bridge.original_model.config)


def continues(bridge: Any, n_ctx: int) -> bool:
    """Whether prompts behind a prefix that was run before give what whole prompts give.

    No where the model's class keeps no such cache. Otherwise by trying it, beyond the sliding
    window where there is one.
    """
    hf_model = getattr(bridge, "original_model", None)
    if hf_model is None or getattr(hf_model, "_is_stateful", True):
        return False
    window = getattr(hf_model.config.get_text_config(decoder=True), "sliding_window", None) or 0
    n = min(window + 3 * LEAST, _LONGEST_PROBE, n_ctx - max(_SUFFIXES))
    d_vocab = bridge.W_U.shape[1]
    shared = [7 * i % d_vocab for i in range(n)]
    return n > 0 and _same(bridge, shared, [[3 * i % d_vocab for i in range(m)] for m in _SUFFIXES])


def _same(bridge: Any, shared: list[int], own: list[list[int]]) -> bool:
    """The logits of whole prompts and of prompts behind their prefix, by the gate's bound."""
    weight, n, rows = bridge.W_U, len(shared), range(len(own))
    cache, device = empty_cache(bridge), weight.device
    with torch.inference_mode():
        whole = forward(bridge, make_batch(rows, [shared + ids for ids in own]), device)
        forward(bridge, make_batch([0], [shared]), device, cache=cache)
        cache.batch_repeat_interleave(len(own))
        parts = forward(bridge, make_batch(rows, own), device, cache=cache)
    errors = [
        worst_kl_bits(whole[row, n : n + len(ids)].float(), parts[row, : len(ids)].float())
        for row, ids in enumerate(own)
    ]
    return all(error <= KL_BITS[weight.dtype] for error in errors)  # NaN is no agreement
