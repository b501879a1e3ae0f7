"""Labels: the tokens of a batch that a loss counts."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

MASKED = -100  # a label that no loss counts: the value that cross entropy ignores


def n_labels(labels: Int[Tensor, "batch pos"]) -> int:
    """How many tokens the loss counts."""
    return int((labels != MASKED).sum())
