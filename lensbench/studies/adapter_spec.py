"""What an adapter study compares: from an `analysis.toml` of kind "adapter"."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from lensbench.errors import Problem
from lensbench.records.schema import STYLES

_CHOICES = {"bits": (4, 8, 16, 32), "train_bits": (4, 8, 16, 32), "style": STYLES}


@dataclass(frozen=True)
class AdapterSpec:
    """One model, base against adapter against retrieval against both, on held-out pairs.

    `data` names where instruction pairs come from: `general` and `docstrings` ship with lensbench;
    a .jsonl file; or a data set on the hub (org/name). `limit` caps the pairs taken from each of
    them, `test_limit` those that are asked.
    """

    name: str
    model: str
    data: tuple[str, ...] = ("docstrings", "general")
    limit: int | None = None
    test_limit: int = 100
    test_batch_size: int = 24  # examples that are asked together
    bits: int = 8  # of the model that answers
    train_bits: int = 32  # of the base that the adapter is trained on
    style: str = "alpaca"
    layers: str = "all"
    targets: str = "q,k,v,o"
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    epochs: int = 2
    learning_rate: float = 2e-4
    batch_size: int = 8
    cache_prefix: bool = False
    top_k: int = 1
    max_new_tokens: int = 96
    seed: int = 0
    device: str | None = None

    def settings(self) -> dict[str, Any]:
        """What decides the numbers; the name does not."""
        fields = dataclasses.asdict(self)
        del fields["name"]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}

    def problems(self, where: str) -> list[Problem]:
        """Everything that is wrong with the values."""
        found = []
        for key, allowed in _CHOICES.items():
            if getattr(self, key) not in allowed:
                what = f"{key} = {getattr(self, key)!r} is not known"
                remedy = f"Choose from: {', '.join(map(str, allowed))}."
                found.append(Problem(where, what, remedy))
        least = ("limit", "test_limit", "rank", "alpha", "epochs", "batch_size", "top_k")
        for key in (*least, "max_new_tokens", "test_batch_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                found.append(Problem(where, f"{key} = {value}", "Give at least 1."))
        if not 0 <= self.dropout < 1:
            found.append(Problem(where, f"dropout = {self.dropout}", "Give 0 up to below 1."))
        if not self.learning_rate > 0:
            found.append(Problem(where, f"learning_rate = {self.learning_rate}", "Give above 0."))
        if not self.data:
            remedy = "Name at least one source of pairs."
            found.append(Problem(where, "data is empty", remedy))
        return found
