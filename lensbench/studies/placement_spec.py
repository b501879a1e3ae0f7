"""What a placement study compares: from an `analysis.toml` of kind "placement"."""

from __future__ import annotations

from dataclasses import dataclass

from lensbench.errors import Problem
from lensbench.records.schema import STYLES

_BITS = (4, 8, 16, 32)


@dataclass(frozen=True)
class PlacementSpec:
    """Adapters with the same number of trained parameters, in different blocks, on the same data.

    `layers` is the suggested block, as `lensbench train --layers` takes it (`12-17`, or `auto:FILE`
    with the file of `lensbench correlate --suggest-layers`). The others are a block as large that
    `seed` draws, another one in every repetition; the complement; and all blocks. `rank` is the
    suggested block's; the others' follow, so that blocks x rank is the same, and must be whole.
    `data` and `limit` are as in an adapter study; `max_steps` ends each training early.
    """

    name: str
    model: str
    layers: str
    data: tuple[str, ...] = ("docstrings", "general")
    limit: int | None = None
    test_limit: int = 200
    repetitions: int = 3  # of every placement, each with a seed of its own
    rank: int = 20
    alpha_per_rank: int = 2
    targets: str = "q,k,v,o"
    dropout: float = 0.05
    style: str = "alpaca"
    train_bits: int = 32
    epochs: int = 1
    max_steps: int | None = None
    batch_size: int = 8
    test_batch_size: int = 24
    learning_rate: float = 2e-4
    max_length: int = 256  # tokens
    seed: int = 0
    device: str | None = None

    def problems(self, where: str) -> list[Problem]:
        """Everything that is wrong with the values."""
        found = []
        least = ("limit", "test_limit", "repetitions", "rank", "alpha_per_rank", "epochs")
        for key in (*least, "max_steps", "batch_size", "test_batch_size", "max_length"):
            value = getattr(self, key)
            if value is not None and value < 1:
                found.append(Problem(where, f"{key} = {value}", "Give at least 1."))
        if self.seed < 0:
            found.append(Problem(where, f"seed = {self.seed}", "Give at least 0."))
        if not 0 <= self.dropout < 1:
            found.append(Problem(where, f"dropout = {self.dropout}", "Give 0 up to below 1."))
        if not self.learning_rate > 0:
            found.append(Problem(where, f"learning_rate = {self.learning_rate}", "Give above 0."))
        choices = {"train_bits": _BITS, "style": STYLES}
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                what = f"{key} = {getattr(self, key)!r} is not known"
                remedy = f"Choose from: {', '.join(map(str, allowed))}."
                found.append(Problem(where, what, remedy))
        if not self.data:
            found.append(Problem(where, "data is empty", "Name at least one source of pairs."))
        return found
