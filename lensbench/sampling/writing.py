"""Texts: one pass over a prompt, then every setting and every draw side by side from there on.

Rows of one batch have the same prompt, so that there is no padding; a draw uses the same random
numbers in every setting, so that settings are compared on the same luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.models.sampling import drawn
from lensbench.quantized.generation.generate import end_ids, row_seed
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.sampling.filters import filtered
from lensbench.sampling.model import Start, step
from lensbench.sampling.settings import Setting


@dataclass(frozen=True)
class Written:
    """One text: its tokens, the end token included, and -log2 p of each under the model itself."""

    setting: str
    draw: int
    text: str  # without special tokens
    token_ids: tuple[int, ...]
    bits: tuple[float, ...]  # of the unmodified distribution, temperature 1
    finish_reason: str  # "stop" or "length"


def uniforms(
    seed: int, prompt_id: str, draws: int, n_tokens: int
) -> Float[np.ndarray, "draw token"]:
    """Numbers in [0, 1) that decide a prompt's draws, whatever the setting and the batch."""
    rngs = [np.random.default_rng(row_seed(seed, f"{prompt_id}:{n}")) for n in range(draws)]
    return np.stack([rng.random(n_tokens) for rng in rngs])


def write(
    model: AdaptedModel,
    start: Start,
    settings: Sequence[Setting],
    uniform: Float[np.ndarray, "draw token"],
) -> list[Written]:
    """What each setting writes behind a prompt, one text a draw; a greedy one is written once.

    `start.cache` is used up. Raises ModelError as `model.step`.
    """
    draws = [1 if setting.greedy else len(uniform) for setting in settings]
    ends = np.cumsum(draws).tolist()
    rows = [slice(end - n, end) for n, end in zip(draws, ends, strict=True)]
    numbers = torch.tensor(uniform)  # on the CPU, where draws are made
    before = torch.tensor([start.token_ids] * ends[-1], device=start.logits.device)
    stops = torch.tensor(end_ids(model), device=start.logits.device)
    logits = start.logits.expand(ends[-1], -1)
    start.cache.batch_repeat_interleave(ends[-1])
    ended = torch.zeros(ends[-1], dtype=torch.bool, device=start.logits.device)
    bits = list[Tensor]()
    for column in numbers.T:
        picked = torch.cat(
            [
                _picked(logits[own], before[own], setting, column)
                for setting, own in zip(settings, rows, strict=True)
            ]
        )
        bits.append(_surprise(logits, picked))
        before = torch.cat([before, picked[:, None]], dim=1)
        ended |= torch.isin(picked, stops)
        if len(bits) == len(numbers.T) or bool(ended.all()):
            break
        logits = step(model, picked[:, None], start.cache)
    said = before[:, len(start.token_ids) :].tolist()
    cost = torch.stack(bits, dim=1).tolist()
    return [
        _written(model, setting.name, draw, said[row], cost[row], stops.tolist())
        for setting, own in zip(settings, rows, strict=True)
        for draw, row in enumerate(range(own.start, own.stop))
    ]


def _picked(
    logits: Float[Tensor, "row d_vocab"],
    before: Int[Tensor, "row pos"],
    setting: Setting,
    uniform: Float[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """On the CPU where chance decides: an accelerator adds up probabilities in an order of each
    time's own, so that a seed would not give the same text again."""
    left = filtered(logits, before, setting)
    return left.argmax(-1) if setting.greedy else drawn(left.cpu(), uniform).to(left.device)


def _surprise(
    logits: Float[Tensor, "row d_vocab"], picked: Int[Tensor, " row"]
) -> Float[Tensor, " row"]:
    """-log2 p of the tokens under the model itself."""
    chosen = logits.gather(1, picked[:, None])[:, 0]
    return (logits.logsumexp(-1) - chosen) / math.log(2)


def _written(
    model: AdaptedModel,
    setting: str,
    draw: int,
    ids: list[int],
    bits: list[float],
    stops: list[int],
) -> Written:
    """A row up to the token that ends it; what follows is padding."""
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    kept = len(ids) if end is None else end + 1
    text = model.tokenizer.decode(ids[:kept], skip_special_tokens=True)
    reason = "length" if end is None else "stop"
    return Written(setting, draw, str(text), tuple(ids[:kept]), tuple(bits[:kept]), reason)


def cache_error_bits(model: AdaptedModel, start: Sequence[int], text: Written) -> float:
    """How far the bits of a text are from those of one plain pass over all of it, the worst token.

    The gate: what was written with keys and values kept is what the model says of it.
    """
    whole = torch.tensor([[*start, *text.token_ids]], device=model.device)
    with torch.inference_mode():
        logits = model.base(input_ids=whole, use_cache=False).logits[0, len(start) - 1 : -1].float()
    own = _surprise(logits, whole[0, len(start) :])
    return float((own - torch.tensor(text.bits, device=own.device)).abs().max())
