"""What each head does, as numbers of its attention pattern. Pure: a pattern in, a score a head out.

Every score is a mean over the queries that have a choice: all but the first, which can only look at
itself. Its range is 0..1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Pattern = Float[Tensor, "head query key"]  # rows sum to 1, nothing looks ahead
Scores = Float[Tensor, " head"]


def current_token(pattern: Pattern) -> Scores:
    """Attention to the token itself."""
    return pattern.diagonal(dim1=-2, dim2=-1)[:, 1:].mean(-1)


def previous_token(pattern: Pattern) -> Scores:
    """Attention to the token before (previous-token heads: Olsson et al. 2022)."""
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean(-1)


def first_token(pattern: Pattern) -> Scores:
    """Attention to the first token, the usual sink (Xiao et al. 2023)."""
    return pattern[:, 1:, 0].mean(-1)


def entropy_share(pattern: Pattern) -> Scores:
    """Entropy of a query's attention over that of even attention to all it may look at."""
    rows = pattern[:, 1:]
    n_keys = torch.arange(2, pattern.shape[-1] + 1, device=pattern.device)
    return (torch.special.entr(rows).sum(-1) / n_keys.log()).mean(-1)


# To add a score: a function like these and a line here.
SCORES: dict[str, Callable[[Pattern], Scores]] = {
    "current_token": current_token,
    "previous_token": previous_token,
    "first_token": first_token,
    "entropy_share": entropy_share,
}
