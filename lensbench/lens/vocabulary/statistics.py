"""What is measured of a cell, by its column in records/schema/lens.py (LENS).

To add one: a function, a line in a table here, and the column. Functions of a `Reading` cost no
pass of their own. Logarithms are to base 2: a bit is one halving of probability.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.checkpoints.devices import wide
from lensbench.lens.metrics import LN_2, Distribution, js_bits
from lensbench.lens.vocabulary.reading import MISSING, Reading, Seen


def prob(reading: Reading, token: Seen) -> Float[Tensor, " row"]:
    """Probability of one token per row, 0..1."""
    return reading.log_probs(token.logit).exp()


def surprisal_bits(reading: Reading, token: Seen) -> Float[Tensor, " row"]:
    """-log2 q(token), 0..inf bits; 0 less a log-probability of 0 is no -0."""
    return (0.0 - reading.log_probs(token.logit)) / LN_2


def rank(reading: Reading, token: Seen) -> Int[Tensor, " row"]:
    """Rank of a token, 1 = best: one more than there are better tokens.

    Tokens with exactly its logit do not count as better; `ties` says how many there are.
    """
    assert token.n_better is not None, "not counted: see UNCOUNTED"
    return token.n_better + 1


def ties(reading: Reading, token: Seen) -> Int[Tensor, " row"]:
    """How many other tokens have exactly a token's logit, 0..d_vocab - 1.

    The token stands between places `rank` and `rank + ties`. Whether it is the best, or among the
    best ten, goes by the last of these: of a vector of zeros every token has rank 1.
    """
    assert token.n_equal is not None, "not counted: see UNCOUNTED"
    return token.n_equal


def margin_bits(reading: Reading, token: Seen) -> Float[Tensor, " row"]:
    """log2 q(token) - log2 q(best other token): above 0 exactly when the token is the best.

    0 where it ties with others as the best.
    """
    assert token.n_better is not None and token.n_equal is not None, "not counted: see UNCOUNTED"
    best, second = reading.top_logits[:, 0], reading.top_logits[:, 1]
    other = second.where(reading.top_ids[:, 0] == token.token, best)
    margin = (wide(token.logit) - wide(other)) / LN_2
    return margin.masked_fill((token.n_better == 0) & (token.n_equal > 0), 0.0)


STATISTICS: dict[str, Callable[[Reading], Float[Tensor, " row"]]] = {
    "entropy_bits": lambda reading: reading.entropy_bits,
    "kl_bits": lambda reading: reading.kl_bits,
}
# ... of a token: the prompt's answer, its other form, its category word, another relation's
# category word, or the token that really comes next. Where there is none: null.
TOKEN_STATISTICS: dict[str, tuple[str, Callable[[Reading, Seen], Tensor]]] = {
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
# Of these tokens no rank is asked for, and so none is counted.
UNCOUNTED = ("following",)
# ... of the model's whole distribution and the lens', which costs a second pass: on request only.
DIVERGENCES: dict[str, Callable[[Distribution, Distribution], Float[Tensor, "*cell"]]] = {
    "js_bits": js_bits,
}


def of(reading: Reading, k: int) -> dict[str, Tensor]:
    """Every default statistic of each row, float32 (top-k: [row, k]); NaN where there is none.

    Besides `outside`, whether they are to be read again (`bound.py`).
    """
    found = {name: compute(reading).float() for name, compute in STATISTICS.items()}
    found |= {name: torch.full_like(found["kl_bits"], torch.nan) for name in DIVERGENCES}
    found["outside"] = reading.outside
    found["top_probs"] = reading.log_probs(reading.top_logits[:, :k]).exp().float()
    found["top_ids"] = reading.top_ids[:, :k]
    for name, (target, compute_of) in TOKEN_STATISTICS.items():
        token = reading.seen[target]
        value = compute_of(reading, token).float()
        found[name] = value.masked_fill(token.token == MISSING, torch.nan)  # in records null
    return found
