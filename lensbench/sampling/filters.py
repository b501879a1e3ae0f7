"""What is drawn from: logits behind transformers' own processors."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lensbench.quantized.generation.generate import shapers
from lensbench.quantized.generation.spec import Decoding
from lensbench.sampling.settings import Setting


def processors(setting: Setting) -> list[Any]:
    """transformers' processors of a setting, in the order of its `generate`.

    At temperature 0 those before the choice: of a repetition penalty.
    """
    from transformers import MinPLogitsWarper

    found = shapers(Decoding(**setting.shared(Decoding)))
    return [*found, MinPLogitsWarper(setting.min_p)] if setting.min_p else found


def filtered(
    logits: Float[Tensor, "row d_vocab"], token_ids: Int[Tensor, "row pos"], setting: Setting
) -> Float[Tensor, "row d_vocab"]:
    """Logits that a setting draws from; -inf where it never draws.

    `token_ids` stood before, prompt included. Greedy: all of the likeliest token, the first one of
    several that are equal.
    """
    found = logits
    for processor in processors(setting):
        found = processor(token_ids, found)
    if not setting.greedy:
        return found
    best = found.argmax(-1, keepdim=True)
    return found.new_full(found.shape, -float("inf")).scatter(-1, best, 0.0)
