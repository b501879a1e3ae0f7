"""What work takes, as numbers that add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What some jobs take; of several it is the sum, and the most of `working_bytes`.

    `flops`: floating-point operations, a multiplication and an addition two of them; one in
    float64 counts as two, for it takes as long as two in float32. Padding is counted in `n_padded`
    and in `flops`, for a machine computes it too.
    """

    n_tokens: int = 0  # that are read, of every text as often as it is read
    n_padded: int = 0  # that go through the blocks: with padding, what texts share once
    n_passes: int = 0  # of the model, forward; one back counts two
    flops: float = 0.0
    file_bytes: int = 0  # of files beside the tables
    scratch_bytes: int = 0  # on the disk until the record is finished, besides parts
    working_bytes: int = 0  # of memory beside the weights, that one job holds at once
    rows: Mapping[str, int] = field(default_factory=dict)  # of each table

    def __add__(self, other: Cost) -> Cost:
        sums = [one.name for one in fields(self) if one.name not in ("rows", "working_bytes")]
        names = {**self.rows, **other.rows}
        return Cost(
            **{name: getattr(self, name) + getattr(other, name) for name in sums},
            working_bytes=max(self.working_bytes, other.working_bytes),
            rows={name: self.rows.get(name, 0) + other.rows.get(name, 0) for name in names},
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def unpadded(lengths: Sequence[int]) -> Cost:
    """To be added to what a batch of texts takes: padding is no token that is read."""
    return Cost(n_tokens=sum(lengths) - len(lengths) * max(lengths))


def total(costs: Iterable[Cost]) -> Cost:
    """The sum."""
    return sum(costs, Cost())
