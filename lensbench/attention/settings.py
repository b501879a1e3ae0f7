"""How patterns are read and scored."""

from __future__ import annotations

from dataclasses import dataclass

from lensbench.records.schema.attention import NULLS, READ, WEIGHTINGS, null_of
from lensbench.records.schema.encoders import ENCODER_READ


@dataclass(frozen=True)
class AttentionSettings:
    """What is read, and how.

    `keep` are the ids of prompts whose whole patterns are kept. Of the condition `repeated` there
    are `n_repeated` sequences of `repeat_tokens` random tokens, `REPEATS` times over. With `nulls`
    what is read is read under its nulls too. `ablate` is of how many prompts heads are ablated.
    """

    conditions: tuple[str, ...] = tuple(READ)
    weightings: tuple[str, ...] = tuple(WEIGHTINGS)
    keep: tuple[str, ...] = ()
    n_repeated: int = 8
    repeat_tokens: int = 25
    batch_tokens: int = 512
    seed: int = 0
    nulls: bool = False
    ablate: int = 0

    @property
    def all_conditions(self) -> tuple[str, ...]:
        """What is read, and the nulls of it."""
        nulls = [null_of(name, null) for name in self.conditions for null in NULLS if self.nulls]
        return (*self.conditions, *nulls)

    @property
    def moved(self) -> bool:
        """Whether what heads move is asked for."""
        return "moved" in self.weightings


@dataclass(frozen=True)
class EncoderSettings:
    """What is read of an encoder, and how: as of `AttentionSettings`.

    `conditions`: "text", and "untrained" for what the same architecture gives without training.
    """

    conditions: tuple[str, ...] = tuple(ENCODER_READ)
    weightings: tuple[str, ...] = tuple(WEIGHTINGS)
    keep: tuple[str, ...] = ()
    batch_tokens: int = 512
    seed: int = 0

    @property
    def moved(self) -> bool:
        """Whether what heads move is asked for."""
        return "moved" in self.weightings
