"""A plan: every record that a run will make, and what they take together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensbench.checkpoints.open import Tokenizers
from lensbench.costs.cost import Cost, total
from lensbench.costs.machine import Speed
from lensbench.costs.planned import Planned
from lensbench.costs.range import Range


@dataclass(frozen=True)
class Plan:
    """What a run will take, record by record in its order; sums are of what is known.

    `wall_s`: what making the plan took. `tokenizers`: that of the first model, for whoever opens it
    next.
    """

    records: Sequence[Planned]
    wall_s: float
    tokenizers: Tokenizers = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing stands in the way of a record, as far as that is known."""
        return not any(record.obstacles for record in self.records)

    @property
    def left(self) -> Cost:
        """Of all that is not there yet."""
        return total(record.left for record in self.records if record.left is not None)

    @property
    def writes(self) -> bool:
        """Somewhere a model ends texts of its own, so that what is left is known as a most."""
        return any(record.least is not None for record in self.records)

    @property
    def seconds(self) -> Range | None:
        """Of all records, one after the other; None where of none that is left it is known."""
        known = [one.wall_s for one in self.records if one.wall_s is not None]
        if not known and any(one.untimed for one in self.records):
            return None
        return Range(sum(one.low for one in known), sum(one.high for one in known))

    @property
    def disk_bytes(self) -> Range:
        """Of all finished records."""
        known = [one.disk_bytes for one in self.records if one.disk_bytes is not None]
        return Range(sum(one.low for one in known), sum(one.high for one in known))

    @property
    def memory_bytes(self) -> int | None:
        """Of the process and its workers at their peak: each holds one model at a time."""
        known = [one.peak_bytes for one in self.records]
        return max((one for one in known if one is not None), default=None)

    @property
    def speeds(self) -> list[Speed]:
        """What was measured for the time, once for each width, number format and crew."""
        return list(dict.fromkeys(own for one in self.records for own in one.speeds))

    @property
    def uncounted(self) -> list[Planned]:
        """Records that are in no sum."""
        return [record for record in self.records if record.unknown]

    def by_folder(self) -> Mapping[Path, Mapping[str, Any]]:
        """What the manifest of each record will say of its plan."""
        told = (one for one in self.records if not one.unknown and not one.finished)
        return {one.folder.resolve(): one.as_dict() for one in told}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "wall_s": None if self.seconds is None else list(self.seconds),
            "disk_bytes": list(self.disk_bytes),
            "memory_bytes": self.memory_bytes,
            **self.left.as_dict(),
            "records": [
                {
                    "name": one.name,
                    "folder": str(one.folder),
                    **one.as_dict(),
                    "obstacles": list(one.obstacles),
                    "problems": [str(problem) for problem in one.problems],
                }
                for one in self.records
            ],
            "speeds": list(map(vars, self.speeds)),
            "planned_in_s": self.wall_s,
        }
