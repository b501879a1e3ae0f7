"""Whole patterns as a record keeps them, made whole again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from lensbench.errors import InputProblems, Problem


def whole(
    patterns: pa.Table,
    prompt_id: str,
    n_tokens: int,
    block: int,
    head: int,
    weighting: str = "plain",
) -> Float[np.ndarray, "query key"]:
    """The pattern of one head for one prompt, of rows of the table `patterns`.

    Raises InputProblems for a prompt or head that is not there, and where `moved` was not asked
    for.
    """
    chosen = (pc.field("prompt_id") == prompt_id) & (pc.field("block") == block)
    rows = patterns.filter(chosen & (pc.field("head") == head)).to_pylist()
    if not rows:
        kept = ", ".join(dict.fromkeys(patterns["prompt_id"].to_pylist())) or "none"
        what = f"no pattern of prompt {prompt_id!r}, block {block}, head {head} is kept"
        remedy = f"Kept prompts: {kept}. Name those to keep: keep=..., --keep-pattern."
        raise InputProblems([Problem("patterns", what, remedy)])
    (row,) = rows
    return square(row["weights"], n_tokens, row["moved"] if weighting == "moved" else None)


def square(
    weights: Float[np.ndarray, " cell"],
    n_tokens: int,
    lengths: Float[np.ndarray, " key"] | None = None,
) -> Float[np.ndarray, "query key"]:
    """A pattern from all its cells, or from its lower triangle; with lengths, weighted by them.

    Weighted rows sum to 1 again.
    """
    cells, n = np.asarray(weights, dtype=np.float64), n_tokens
    if len(cells) == n * n:
        grid = cells.reshape(n, n)
    else:
        grid = np.zeros((n, n))
        grid[np.tril_indices(n)] = cells
    if lengths is None:
        return grid
    weighted = grid * np.asarray(lengths, dtype=np.float64)
    return weighted / weighted.sum(-1, keepdims=True)
