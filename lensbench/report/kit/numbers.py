"""How numbers are written: one rule per unit, and the unit is a word of the column's name."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import pandas as pd

from lensbench.stats.estimates import Estimate

# word of the column name -> (scale, format, what follows the number)
_UNITS: dict[str, tuple[float, str, str]] = {
    "pp": (100, "+.1f", " pp"),
    "share": (100, ".1f", " %"),
    "accuracy": (100, ".1f", " %"),
    "depth": (100, ".1f", " %"),
    "bits": (1, "bits", ""),  # the column name says bits
    "prob": (1, ".3f", ""),
    "p": (1, ".2g", ""),
}
_PLAIN = (1.0, ".4g", "")
_WHOLE = 1e9  # below it no number needs an exponent


def unit_of(column: str) -> str:
    """The last unit in a column's name: `rank1_first_depth` -> `depth`; empty when there is none.

    A column of p-values (`kl_bits_change_p`) is named after what was tested.
    """
    return next((word for word in reversed(column.split("_")) if word in _UNITS), "")


def number(value: object, unit: str = "") -> str:
    """A number as text: shares and depths in per cent, counts whole, others in 4 digits."""
    if not isinstance(value, numbers.Real) or math.isnan(value):
        return "n/a (not recorded)"
    plain = float(value)
    if not unit:
        return f"{plain:.0f}" if plain.is_integer() else _plain(plain, _PLAIN[1])
    scale, form, suffix = _UNITS[unit]
    return f"{_plain(scale * plain, _form(form, [plain]))}{suffix}"


def estimate(value: Estimate, unit: str = "") -> str:
    """`83.3 % [80.0, 86.7]`, or `n/a (reason)`, or the value with why it has no interval."""
    if value.value is None:
        return f"n/a ({value.reason})"
    if value.low is None or value.high is None:
        why = f" ({value.reason})" if value.reason else ""  # it may be said under the table
        return f"{number(value.value, unit)}{why}"
    scale, form, suffix = _UNITS.get(unit, _PLAIN)
    ends = [value.value, value.low, value.high]
    own, low, high = (_plain(scale * end, _form(form, ends)) for end in ends)
    if not unit:
        own = number(value.value)
    return f"{own}{suffix} [{low}, {high}]"


def _form(form: str, shown: Sequence[float]) -> str:
    """The format; bits get more decimals where all that is shown is small, unless it is noise."""
    if form != "bits":
        return form
    largest = max(map(abs, shown))
    return ".3f" if 0.01 <= largest < 0.1 else ".4f" if 5e-5 <= largest < 0.01 else ".2f"


def _plain(value: float, form: str) -> str:
    """Formatted, and zero without a sign; a number of more than 4 digits whole where it is read."""
    text = format(value, form)
    if "e+" in text and abs(value) < _WHOLE:
        text = f"{value:.0f}"
    return text.lstrip("+-") if float(text) == 0 else text


def is_missing(value: object) -> bool:
    """None, NaN or NA: a cell without a value."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
