"""What a setting makes of one distribution of the next token, exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.devices import wide
from lensbench.sampling.filters import filtered
from lensbench.sampling.settings import Setting


@dataclass(frozen=True)
class Effect:
    """One setting at one place of one text.

    `kept_prob` is the model's own probability (temperature 1) of the tokens that can be drawn;
    `total_variation` is half the sum of differences to the model's own probabilities, 0..1.
    """

    setting: str
    entropy_bits: float  # of what is drawn from, 0..log2 n_kept
    n_kept: int  # tokens that can be drawn
    kept_prob: float
    top_prob: float  # of the likeliest token, as it is drawn
    top_token: int
    total_variation: float

    @property
    def effective_tokens(self) -> float:
        """2^entropy: a fair draw among so many tokens is as uncertain."""
        return float(2.0**self.entropy_bits)

    def columns(self, top_token: str) -> dict[str, Any]:
        """As the table `first_tokens` of a record has them; the likeliest token as text."""
        return vars(self) | {"effective_tokens": self.effective_tokens, "top_token": top_token}


def effects(
    logits: Float[Tensor, " d_vocab"], token_ids: Sequence[int], settings: Iterable[Setting]
) -> list[Effect]:
    """What each setting makes of the same logits, behind `token_ids`: `wide` from there on."""
    own = wide(logits).softmax(-1)
    before = torch.tensor([list(token_ids)], device=logits.device)
    return [_effect(own, logits[None].float(), before, setting) for setting in settings]


def _effect(
    own: Float[Tensor, " d_vocab"], logits: Tensor, before: Tensor, setting: Setting
) -> Effect:
    left = filtered(logits, before, setting)[0]
    drawn = wide(left).softmax(-1)
    kept = left > -float("inf")
    top = int(drawn.argmax())
    return Effect(
        setting.name,
        float(torch.special.entr(drawn).sum()) / math.log(2),
        int(kept.sum()),
        min(float(own[kept].sum()), 1.0),
        float(drawn[top]),
        top,
        float((drawn - own).abs().sum()) / 2,
    )
