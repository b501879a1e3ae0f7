"""How numbers are written: one rule per unit, and the unit is the end of the column's name."""

from __future__ import annotations

import math
import numbers

import pandas as pd

from lensbench.stats.bootstrap import Estimate

# ending of the column name -> (scale, format, what follows the number)
_UNITS: dict[str, tuple[float, str, str]] = {
    "points": (100, "+.1f", " points"),
    "share": (100, ".1f", " %"),
    "depth": (100, ".1f", " %"),
    "bits": (1, ".2f", ""),  # the column name says bits
    "prob": (1, ".3f", ""),
}


def unit_of(column: str) -> str:
    """The unit in a column's name: `rank1_first_depth` -> `depth`; empty when it names none."""
    last = column.rsplit("_", 1)[-1]
    return last if last in _UNITS else ""


def number(value: object, unit: str = "") -> str:
    """A number as text: shares and depths in per cent, counts whole, others in 4 digits."""
    if not isinstance(value, numbers.Real) or math.isnan(value):
        return "n/a (not recorded)"
    plain = float(value)
    if not unit:
        return f"{plain:.0f}" if plain.is_integer() else f"{plain:.4g}"
    scale, form, suffix = _UNITS[unit]
    return f"{_plain(scale * plain, form)}{suffix}"


def estimate(value: Estimate, unit: str = "") -> str:
    """`83.3 % [80.0, 86.7]`, or `n/a (reason)`, or the value with why it has no interval."""
    if value.value is None:
        return f"n/a ({value.reason})"
    text = number(value.value, unit)
    if value.low is None or value.high is None:
        return f"{text} ({value.reason})"
    scale, form, _ = _UNITS.get(unit, (1, ".4g", ""))
    return f"{text} [{_plain(scale * value.low, form)}, {_plain(scale * value.high, form)}]"


def _plain(value: float, form: str) -> str:
    """Formatted, and zero without a sign."""
    text = format(value, form)
    return text.lstrip("+-") if float(text) == 0 else text


def is_missing(value: object) -> bool:
    """None, NaN or NA: a cell without a value."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
