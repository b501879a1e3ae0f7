"""A number that nobody knows exactly: where it will be, with its ends."""

from __future__ import annotations

from typing import NamedTuple


class Range(NamedTuple):
    """From the least to the most that is expected."""

    low: float
    high: float

    def plus(self, other: Range) -> Range:
        """The sum."""
        return Range(self.low + other.low, self.high + other.high)

    @classmethod
    def between(cls, least: Range, most: Range) -> Range:
        """From the low end of one to the high end of the other."""
        return cls(least.low, most.high)
