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
    from lensbench.models.text_encoder import TextEncoder
    from lensbench.prompts.encode import Template
    from lensbench.prompts.prompt import Prompts


class _Room(ModuleType):
    """A package of the name of its main function: whichever is imported first, it is both."""

    def __call__(
        self,
        model: LensModel | TextEncoder | str,
        prompts: Prompts,
        *,
        conditions: str | Sequence[str] | None = None,
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
        rows sum to 1, nothing looks ahead, and what heads write sums to the attention's output. The
        heads of a text encoder look both ways and have scores of their own.

        Args:
            model: what `load_model` or `load_encoder` returns, or a name, which is loaded.
            prompts: a text, token ids or a Prompt; or a list of these, or a PromptSet.
            conditions: "text" (the prompts), "repeated" (random tokens several times over); both by
                default. Of an encoder "text", and on request "untrained" (the same texts, weights
                drawn anew).
            weightings: "plain" (the pattern), "moved" (each weight times the length of what it
                moves: Kobayashi et al. 2020).
            keep: ids of prompts whose whole patterns are kept ("p1", ... where they have none).
            n_repeated, repeat_tokens: sequences of random tokens, and how many stand in each; none
                are read of an encoder.
            batch_tokens: tokens per forward pass, padding included.
            seed: of the random tokens, or of the untrained encoder.

        Raises:
            GateError: what was read is not the model's attention.
            ModelError: an unknown name, or a block's attention has no pattern (state spaces, linear
                attention).
            InputProblems: no prompt could be read, or unknown conditions, weightings or prompts.
        """
        from lensbench.attention.encoders.result import read_encoder
        from lensbench.attention.result import read_heads
        from lensbench.attention.settings import AttentionSettings, EncoderSettings
        from lensbench.lens.settings import several
        from lensbench.models.readable import load_readable
        from lensbench.models.text_encoder import TextEncoder
        from lensbench.prompts.prompt import some_prompts

        prompts = some_prompts(prompts)
        loaded = load_readable(model) if isinstance(model, str) else model
        how, kept = several(weightings), several(keep)
        if isinstance(loaded, TextEncoder):
            read = ("text",) if conditions is None else several(conditions)
            of_encoder = EncoderSettings(read, how, kept, batch_tokens, seed)
            return read_encoder(loaded, prompts, of_encoder, template)
        read = ("text", "repeated") if conditions is None else several(conditions)
        settings = AttentionSettings(read, how, kept, n_repeated, repeat_tokens, batch_tokens, seed)
        return read_heads(loaded, prompts, settings, template)


sys.modules[__name__].__class__ = _Room
attention = cast(_Room, sys.modules[__name__])
