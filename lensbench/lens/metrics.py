"""Metrics of one distribution over the vocabulary, or of two. Pure: tensors in, tensors out.

All take whole `Distribution`s, so that the softmax is made once for all of them, and return float32
per cell; vocabulary/ has what needs no more than one pass over tiles. Logarithms are to base 2: a
bit is one halving of probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

LN_2 = math.log(2.0)
_ROUNDING_BITS = 1e-3  # float32 sums over 262,144 tokens stay well within


@dataclass(frozen=True)
class Distribution:
    """A softmax over the vocabulary, as natural log-probabilities.

    Each row is centred on its maximum first. That matters: an entropy from uncentred float32 logits
    of magnitude 30 was off by 0.008 nats, centred by 1e-5. And it is summed in pairs, by `sum`:
    `torch.log_softmax` adds one term after the other, and may be off by 4e-4 over 262,144 tokens.
    """

    log_probs: Float[Tensor, "*cell d_vocab"]

    @classmethod
    def from_logits(cls, logits: Float[Tensor, "*cell d_vocab"]) -> Distribution:
        """Softmax of `logits`, any offset per row."""
        centred = logits - logits.amax(dim=-1, keepdim=True)
        return cls(centred - centred.exp().sum(dim=-1, keepdim=True).log())

    @cached_property
    def probs(self) -> Float[Tensor, "*cell d_vocab"]:
        """Probabilities, 0..1."""
        return self.log_probs.exp()

    @cached_property
    def entropy(self) -> Float[Tensor, "*cell"]:
        """Shannon entropy in bits; the Jensen-Shannon divergence needs it too."""
        return not_negative(-(self.probs * self.log_probs).sum(-1) / LN_2)


def not_negative(bits: Float[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
    """What rounding left below 0 (or at -0.0) as 0. More than rounding explains stays visible."""
    return torch.where((bits <= 0) & (bits > -_ROUNDING_BITS), 0.0, bits)


def entropy_bits(q: Distribution) -> Float[Tensor, "*cell"]:
    """Shannon entropy -sum q log2 q (Shannon 1948), 0..log2(d_vocab) bits.

    Below 0 as for `kl_bits`.
    """
    return q.entropy


def kl_bits(p: Distribution, q: Distribution) -> Float[Tensor, "*cell"]:
    """KL(p || q) = sum p log2(p / q) (Kullback & Leibler 1951), 0..inf bits.

    With p the model's output and q the lens: the bits lost by stopping here. Differences are taken
    before the sum, so that equal distributions give exactly 0. It is 0 or more by definition: what
    rounding takes below is 0, and a value under -0.001, which no rounding makes, is left to see.
    """
    return not_negative(((p.log_probs - q.log_probs) * p.probs).sum(-1) / LN_2)


def js_bits(p: Distribution, q: Distribution) -> Float[Tensor, "*cell"]:
    """Jensen-Shannon divergence (Lin 1991), symmetric, 0..1 bit.

    (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2. Differences are taken before the sum, and
    below 0 is as for `kl_bits`: H(m) - (H(p) + H(q)) / 2 is off by 4e-4 bits over 262,144 tokens.
    """
    # Where both underflow to 0 the smallest normal number stands in for log(0).
    tiny = torch.finfo(p.probs.dtype).tiny
    log_m = (p.probs + q.probs).clamp(min=tiny).log() - LN_2
    both = (p.log_probs - log_m) * p.probs + (q.log_probs - log_m) * q.probs
    return not_negative(0.5 * both.sum(-1) / LN_2)


def cosine(
    x: Float[Tensor, "*cell d_model"], y: Float[Tensor, "*cell d_model"]
) -> Float[Tensor, "*cell"]:
    """Cosine of two vectors, -1..1; NaN for a zero vector, which has no direction."""
    return (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
