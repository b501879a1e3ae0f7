"""Metrics of one distribution over the vocabulary, or of two. Pure: tensors in, tensors out.

All take `Distribution`s, so that the softmax is made once for all of them, and return float32
per cell. Logarithms are to base 2: a bit is one halving of probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

LN_2 = math.log(2.0)
_TOP_BLOCK = 64
_ROUNDING_BITS = 1e-3  # float32 sums over 262,144 tokens stay well within


@dataclass(frozen=True)
class Distribution:
    """A softmax over the vocabulary, as natural log-probabilities.

    `torch.log_softmax` centres each row on its maximum first. That matters: an entropy from
    uncentred float32 logits of magnitude 30 was off by 0.008 nats, centred by 1e-5.
    """

    log_probs: Float[Tensor, "*cell d_vocab"]

    @classmethod
    def from_logits(cls, logits: Float[Tensor, "*cell d_vocab"]) -> Distribution:
        """Softmax of `logits`, any offset per row."""
        return cls(torch.log_softmax(logits, dim=-1))

    @cached_property
    def probs(self) -> Float[Tensor, "*cell d_vocab"]:
        """Probabilities, 0..1."""
        return self.log_probs.exp()

    @cached_property
    def entropy(self) -> Float[Tensor, "*cell"]:
        """Shannon entropy in bits; the Jensen-Shannon divergence needs it too."""
        return _not_negative(-(self.probs * self.log_probs).sum(-1) / LN_2)


def _not_negative(bits: Float[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
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
    return _not_negative(((p.log_probs - q.log_probs) * p.probs).sum(-1) / LN_2)


def js_bits(p: Distribution, q: Distribution) -> Float[Tensor, "*cell"]:
    """Jensen-Shannon divergence (Lin 1991), symmetric, 0..1 bit.

    (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, written as H(m) - (H(p) + H(q)) / 2, where
    H(m) = 1 - sum (2m) log2(2m) / 2. Below 0 as for `kl_bits`.
    """
    # Where both underflow to 0, m log m is 0: the smallest normal number stands in for log(0).
    double = p.probs.clamp(min=torch.finfo(p.probs.dtype).tiny) + q.probs
    mixture_bits = 1.0 - 0.5 * (double * double.log()).sum(-1) / LN_2
    return _not_negative(mixture_bits - 0.5 * (p.entropy + q.entropy))


def log_prob(q: Distribution, token: Int[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
    """Natural log-probability of one token per cell, -inf..0."""
    return q.log_probs.gather(-1, token.unsqueeze(-1)).squeeze(-1)


def prob(q: Distribution, token: Int[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
    """Probability of one token per cell, 0..1."""
    return log_prob(q, token).exp()


def surprisal_bits(q: Distribution, token: Int[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
    """-log2 q(token), 0..inf bits; 0 less a log-probability of 0 is no -0."""
    return (0.0 - log_prob(q, token)) / LN_2


def rank(q: Distribution, token: Int[Tensor, "*cell"]) -> Int[Tensor, "*cell"]:
    """Rank of a token, 1 = best: one more than there are better tokens.

    Tokens with exactly its probability do not count as better; `ties` says how many there are.
    """
    return _count(torch.gt, q, token) + 1


def ties(q: Distribution, token: Int[Tensor, "*cell"]) -> Int[Tensor, "*cell"]:
    """How many other tokens have exactly a token's probability, 0..d_vocab - 1.

    The token stands between places `rank` and `rank + ties`. Whether it is the best, or among the
    best ten, goes by the last of these: of a vector of zeros every token has rank 1.
    """
    return _count(torch.eq, q, token) - 1


def _count(
    compare: Callable[..., Tensor], q: Distribution, token: Int[Tensor, "*cell"]
) -> Int[Tensor, "*cell"]:
    """Of how many tokens a comparison with one token holds.

    Comparing into floats and adding those is six times faster than counting booleans; a count
    below 2**24 is exact in float32, and no vocabulary is that large.
    """
    holds = torch.empty_like(q.log_probs)
    compare(q.log_probs, log_prob(q, token).unsqueeze(-1), out=holds)
    return holds.sum(-1).long()


def top_k(q: Distribution, k: int) -> tuple[Float[Tensor, "*cell k"], Int[Tensor, "*cell k"]]:
    """The k most probable tokens: natural log-probabilities and ids, best first.

    Exact in two steps, four times faster than one: the k best tokens lie in the k blocks of the
    vocabulary with the highest maxima.
    """
    width = q.log_probs.shape[-1]
    n_blocks = width // _TOP_BLOCK
    if width % _TOP_BLOCK or n_blocks < k:
        values, ids = q.log_probs.topk(k, dim=-1)
        return values, ids
    blocks = q.log_probs.unflatten(-1, (n_blocks, _TOP_BLOCK))
    best_blocks = blocks.amax(-1).topk(k, dim=-1).indices
    index = best_blocks.unsqueeze(-1).expand(*best_blocks.shape, _TOP_BLOCK)
    values, inner = blocks.gather(-2, index).flatten(-2).topk(k, dim=-1)
    ids = best_blocks.gather(-1, inner // _TOP_BLOCK) * _TOP_BLOCK + inner % _TOP_BLOCK
    return values, ids


def margin_bits(q: Distribution, token: Int[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
    """log2 q(token) - log2 q(best other token): above 0 exactly when the token is the best."""
    values, ids = top_k(q, 2)
    best_other = torch.where(ids[..., 0] == token, values[..., 1], values[..., 0])
    return (log_prob(q, token) - best_other) / LN_2


def cosine(
    x: Float[Tensor, "*cell d_model"], y: Float[Tensor, "*cell d_model"]
) -> Float[Tensor, "*cell"]:
    """Cosine of two vectors, -1..1; NaN for a zero vector, which has no direction."""
    return (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))


# What is measured of a cell, by its column in records/schema/lens.py (LENS); to add a metric: one
# function above, one line here and the column. Of the model's distribution p and the lens' q:
STATISTICS: dict[str, Callable[[Distribution, Distribution], Float[Tensor, "*cell"]]] = {
    "entropy_bits": lambda p, q: entropy_bits(q),
    "kl_bits": kl_bits,
    "js_bits": js_bits,
}
# ... and of q and a token: the prompt's answer, its other form, its category word, another
# relation's category word, or the token that really comes next. Where there is none: null.
TOKEN_STATISTICS: dict[str, tuple[str, Callable[[Distribution, Int[Tensor, "*cell"]], Tensor]]] = {
    "answer_prob": ("answer", prob),
    "answer_rank": ("answer", rank),
    "answer_ties": ("answer", ties),
    "answer_margin_bits": ("answer", margin_bits),
    "answer_other_prob": ("answer_other", prob),
    "answer_other_rank": ("answer_other", rank),
    "category_rank": ("category", rank),
    "null_category_rank": ("null_category", rank),
    "next_surprisal_bits": ("following", surprisal_bits),
}
