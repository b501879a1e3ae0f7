"""A text of a corpus as a model reads it: from its beginning, so far as a window goes."""

from __future__ import annotations

from lensbench.prompts.encode import Encoder
from lensbench.prompts.prompt import Prompt

SHORTEST = 16  # tokens: a window holds some context


def read_tokens(source: str, text: str, encoder: Encoder, window: int) -> tuple[int, ...]:
    """The first tokens of a text, at most `window`.

    Raises InputProblems for what the model cannot read, such as a token of no embedding.
    """
    # Ten characters a token are more than any text has.
    prompt = Prompt(id=source, prompt=text[: 10 * window])
    return encoder.encode(prompt).token_ids[:window]
