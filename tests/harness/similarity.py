"""One measure of two sides, as a study takes it of two layers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lensbench.compare.similarity import CONSTANT, Measure, compared, prepared, why_not


class Value(NamedTuple):
    """A number, or None with the reason."""

    value: float | None
    reason: str | None = None


def similarity(measure: Measure, x: np.ndarray, y: np.ndarray) -> Value:
    if (reason := why_not(measure, x, y)) is not None:
        return Value(None, reason)
    value = compared(measure, *prepared(measure, [x, y]))
    return Value(None, CONSTANT) if np.isnan(value) else Value(value)
