"""What a model that writes takes: one pass over what it is given, then one for each further token.

A text ends where the model ends it. So there are two counts: of texts that go on to their limit,
and of such as end with their first token.
"""

from __future__ import annotations

from lensbench.costs.cost import Cost, total
from lensbench.costs.shape import Shape


def written(
    shape: Shape, n_texts: int, n_each: int, n_new: int, n_given: int | None = None
) -> Cost:
    """Texts of so many tokens, padded ones too, and behind each so many new ones.

    Keys and values are kept, so that a further token is one column; the last one is not read.
    `n_given`: texts that are read, where several begin alike and that is read once.
    """
    given = shape.batch(n_texts if n_given is None else n_given, n_each, 1)
    return given + further(shape, n_texts, n_each, n_new)


def further(shape: Shape, n_texts: int, n_before: int, n_new: int) -> Cost:
    """Every new token but the last, which nobody reads, behind what was read before."""
    return total(shape.batch(n_texts, 1, 1, n_before + n) for n in range(n_new - 1))
