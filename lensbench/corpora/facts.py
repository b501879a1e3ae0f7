"""Whether a text states a fact: the subject and the answer of a prompt in one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lensbench.prompts.prompt import Prompt

_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n\s*\n")


def states(text: str, facts: Sequence[Prompt]) -> bool:
    """Whether a sentence of the text holds subject and answer of one of the prompts.

    Whole words, in any case. A prompt without a subject or an answer states nothing.
    """
    pairs = [
        (prompt.subject, prompt.answer.strip())
        for prompt in facts
        if prompt.subject and prompt.answer and prompt.answer.strip()
    ]
    folded = text.casefold()
    near = [pair for pair in pairs if all(word.casefold() in folded for word in pair)]
    return any(
        _holds(sentence, subject) and _holds(sentence, answer)
        for subject, answer in near
        for sentence in _SENTENCE_END.split(text)
    )


def _holds(sentence: str, words: str) -> bool:
    pattern = r"\s+".join(map(re.escape, words.split()))
    return re.search(rf"(?<!\w){pattern}(?!\w)", sentence, re.IGNORECASE) is not None
