"""Attention: what each head looks at, a block's pattern at a time.

The room can be called, as `lensbench.attention(model, prompts)`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from lensbench.attention.result import AttentionResult
    from lensbench.models.model import LensModel
    from lensbench.prompts.encode import Template
    from lensbench.prompts.prompt import Prompts


class _Room(ModuleType):
    """A package of the name of its main function: whichever is imported first, it is both."""

    def __call__(
        self,
        model: LensModel,
        prompts: Prompts,
        *,
        conditions: str | Sequence[str] = ("text", "repeated"),
        weightings: str | Sequence[str] = ("plain", "moved"),
        keep: str | Sequence[str] = (),
        n_repeated: int = 8,
        repeat_tokens: int = 25,
        template: Template = "plain",
        batch_tokens: int = 512,
        seed: int = 0,
    ) -> AttentionResult:
        """What every head looks at, as scores of its pattern.

        Eager attention of the model itself, read a block at a time and reduced as it comes. Gated:
        rows sum to 1, nothing looks ahead, and what heads write sums to the attention's output.

        Args:
            prompts: a text, token ids or a Prompt; or a list of these, or a PromptSet.
            conditions: "text" (the prompts), "repeated" (random tokens several times over).
            weightings: "plain" (the pattern), "moved" (each weight times the length of what it
                moves: Kobayashi et al. 2020).
            keep: ids of prompts whose whole patterns are kept ("p1", ... where they have none).
            n_repeated, repeat_tokens: sequences of random tokens, and how many stand in each.
            batch_tokens: tokens per forward pass, padding included.
            seed: of the random tokens.

        Raises:
            GateError: what was read is not the model's attention.
            ModelError: a block's attention has no pattern (state spaces, linear attention).
            InputProblems: no prompt could be read, or unknown conditions, weightings or prompts.
        """
        from lensbench.attention.result import read_heads
        from lensbench.attention.settings import AttentionSettings
        from lensbench.lens.settings import several

        settings = AttentionSettings(
            several(conditions),
            several(weightings),
            several(keep),
            n_repeated,
            repeat_tokens,
            batch_tokens,
            seed,
        )
        return read_heads(model, prompts, settings, template)


sys.modules[__name__].__class__ = _Room
attention = cast(_Room, sys.modules[__name__])
