"""Halves of a set of sentences: one to choose by, the other to test what was chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

LEAST = 4  # sentences: two of each half


def halves(
    sentences: Sequence[object], seed: int
) -> tuple[Int[np.ndarray, " question"], Int[np.ndarray, " question"]] | None:
    """The questions of one half of the sentences and of the other; None with fewer than `LEAST`."""
    codes, names = pd.factorize(np.asarray(sentences, dtype=object))
    if len(names) < LEAST:
        return None
    order = np.random.default_rng(seed).permutation(len(names))
    in_first = np.isin(codes, order[: len(names) // 2])
    return np.flatnonzero(in_first), np.flatnonzero(~in_first)
