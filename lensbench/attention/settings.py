"""How patterns are read and scored."""

from __future__ import annotations

from dataclasses import dataclass

from lensbench.records.schema.attention import CONDITIONS, WEIGHTINGS


@dataclass(frozen=True)
class AttentionSettings:
    """What is read, and how.

    `keep` are the ids of prompts whose whole patterns are kept. Of the condition `repeated` there
    are `n_repeated` sequences of `repeat_tokens` random tokens, `REPEATS` times over.
    """

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    weightings: tuple[str, ...] = tuple(WEIGHTINGS)
    keep: tuple[str, ...] = ()
    n_repeated: int = 8
    repeat_tokens: int = 25
    batch_tokens: int = 512
    seed: int = 0

    @property
    def moved(self) -> bool:
        """Whether what heads move is asked for."""
        return "moved" in self.weightings
