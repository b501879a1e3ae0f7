"""How long training data is, in characters or in a model's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from lensbench.checkpoints.config.shape import context_length
from lensbench.checkpoints.open import open_config, open_tokenizer, quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.quantized.data.pairs import Pair, pair_tokens, style_of
from lensbench.quantized.style import Style

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


def lengths(
    path: Path,
    pairs: Sequence[Pair],
    model: str | None = None,
    style: Style | None = None,
    max_length: int | None = None,
) -> dict[str, Any]:
    """Quantiles of the pairs' lengths, their unit, and with a model which pairs are too long.

    `style` None is what the file's form asks for, `max_length` None the model's context.
    """
    if model is None:
        return {"unit": "characters", "quantiles": quantiles(character_lengths(pairs))}
    folder = ModelRef.of(model).folder
    with quiet():
        tokenizer = open_tokenizer(folder)
        context = context_length(open_config(folder))
    framed, limit = style or style_of(path), max_length or context
    found = token_lengths(pairs, tokenizer, framed)
    totals = zip(pairs, found.sum(axis=1).tolist(), strict=True)
    return {
        "unit": "tokens",
        "model": model,
        "style": framed,
        "quantiles": quantiles(found),
        "max_length": limit,
        "too_long": [
            {"id": pair.id, "row": pair.row, "tokens": total}
            for pair, total in totals
            if total > limit
        ],
    }


def token_lengths(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, style: Style
) -> Int[np.ndarray, "pair part"]:
    """Tokens per pair as training sees them, [pair, (prompt, response)]; the end token counts.

    Raises what `pair_tokens` raises.
    """
    ends = [tokenizer.eos_token_id]
    parts = (pair_tokens(tokenizer, style, pair, ends) for pair in pairs)
    return np.array([[len(prompt), len(response)] for prompt, response in parts])


def character_lengths(pairs: Sequence[Pair]) -> Int[np.ndarray, "pair part"]:
    """Characters per pair, [pair, (question, response)]."""
    return np.array([[len(pair.question), len(pair.response)] for pair in pairs])


def quantiles(lengths: Int[np.ndarray, "pair part"]) -> dict[str, dict[str, float]]:
    """Quantiles of the prompts', the responses' and the whole pairs' lengths."""
    columns = {"prompt": lengths[:, 0], "response": lengths[:, 1], "both": lengths.sum(axis=1)}
    return {
        name: {label: float(np.quantile(column, q)) for label, q in QUANTILES.items()}
        for name, column in columns.items()
    }
