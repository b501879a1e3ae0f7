"""An answer read again: one pass over prompt and answer, without cache and padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.checkpoints.blocks import keeps_some
from lensbench.checkpoints.ref import Bits
from lensbench.errors import GateError

if TYPE_CHECKING:
    from lensbench.quantized.loading.load import AdaptedModel

# Of a token's log-probability: other shapes sum in another order, in 16 bits coarsely; LLM.int8
# picks its outliers over a whole batch besides.
BOUND_BITS: dict[Bits, float] = {32: 2e-3, 16: 0.5, 8: 1.0, 4: 1.0}


def off_bits(
    model: AdaptedModel, prompt: Sequence[int], answer: Any, tokens: range
) -> Float[Tensor, " token"]:
    """How far some tokens of an answer (`Generation`) are from what one pass gives them, in bits.

    A cache may go wrong once it is longer; and of many tokens the worst is far off in low
    precision (1.6 bits among 768 tokens in 8 bits), so that of many of them the mean counts.
    """
    end = len(prompt) + tokens.stop
    ids = torch.tensor([[*prompt, *answer.token_ids][:end]], device=model.device)
    noted = answer.token_logprob_bits[tokens.start : tokens.stop]
    with torch.inference_mode():
        logits = _logits(model, ids, len(prompt) + tokens.start)
    own = logits.float().log_softmax(-1).gather(1, ids[0, -len(tokens) :, None])[:, 0]
    return (own / math.log(2) - torch.tensor(noted, device=own.device)).abs()


def refusal(model: AdaptedModel, how: str, error: float, remedy: str) -> GateError:
    """What is raised where an answer is not what the model says of the same tokens."""
    name, kind, bound = model.ref.name, type(model.base).__name__, BOUND_BITS[model.bits]
    return GateError(f"{name} ({kind}): {how}, by {error:.3g} bits (bound {bound:g}). {remedy}")


def _logits(
    model: AdaptedModel, ids: Int[Tensor, "1 token"], start: int
) -> Float[Tensor, "new token"]:
    """What one pass gives the tokens from `start` on; those up to the `rope_switch` a pass of it.

    In a longer one they would be rotated otherwise.
    """

    def of(end: int) -> Float[Tensor, "new token"]:
        n = end - start + 1  # the head over a whole text may take more memory than the model
        kept = {"logits_to_keep": n} if keeps_some(model.base) else {}
        found: Tensor = model.base(input_ids=ids[:, :end], use_cache=False, **kept).logits[0, -n:]
        return found

    end, switch = ids.shape[1], model.rope_switch
    whole = of(end)[:-1]
    if switch is None or not start <= switch < end:
        return whole
    below = of(switch)
    return torch.cat([below, whole[len(below) :]])
