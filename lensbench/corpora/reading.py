"""A text of a corpus as a model reads it: from its beginning, so far as a window goes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lensbench.prompts.encode import Encoder
from lensbench.prompts.prompt import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORTEST = 16  # tokens: a window holds some context


def reader(tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> Encoder:
    """Makes tokens of texts. They are read from their beginning, so they may outgrow a context."""
    return Encoder(tokenizer, sys.maxsize, d_vocab=d_vocab)


def read_tokens(source: str, text: str, encoder: Encoder, window: int) -> tuple[int, ...]:
    """The first tokens of a text, at most `window`.

    Raises InputProblems for what the model cannot read, such as a token of no embedding.
    """
    # Ten characters a token are more than any text has.
    prompt = Prompt(id=source, prompt=text[: 10 * window])
    return encoder.encode(prompt).token_ids[:window]
