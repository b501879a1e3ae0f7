"""Which facts a text states: the subject and the answer of a prompt in one sentence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from lensbench.prompts.prompt import Prompt

# A full stop after one or two letters ends no sentence: "F. Scott Fitzgerald", "St. Petersburg".
# What is held together so is left out rather than read.
_SENTENCE_END = re.compile(
    r"(?:(?<=[.])(?<!\b\w[.])(?<!\b\w\w[.])|(?<=[!?؟۔।]))\s+|(?<=[。！？])|\n\s*\n"
)
# Scripts in which words, or their endings, follow each other without a space.
_UNSPACED = (
    *("CJK", "HIRAGANA", "KATAKANA", "HANGUL"),
    *("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"),
)
_ALIKE = str.maketrans({"’": "'", "‘": "'", "‐": "-", "‑": "-", "\u00ad": None, "\u200b": None})


def stated(text: str, facts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts whose subject and answer stand in one sentence of the text.

    Whole words as the prompt has them, in any case and Unicode form; another name of the same
    thing is not known. A prompt without a subject or an answer asks about no fact.
    """
    whole = _plain(text)
    near = [
        (fact, words)
        for fact in facts
        if all(words := [_words(word or "") for word in (fact.subject, fact.answer)])
        and all(part in whole for word in words for part in word.split())
    ]
    if not near:
        return []
    sentences = [_plain(sentence) for sentence in _SENTENCE_END.split(text)]
    return [
        fact
        for fact, words in near
        if any(all(_holds(one, word) for word in words) for one in sentences)
    ]


def _plain(text: str) -> str:
    """Without what writing the same words otherwise may change."""
    alike = unicodedata.normalize("NFKC", text).translate(_ALIKE)
    return unicodedata.normalize("NFKC", alike.casefold())


@lru_cache(maxsize=1 << 14)
def _words(of_fact: str) -> str:
    """The same of what a fact is asked with: once, not for every text."""
    return _plain(of_fact).strip()


def _holds(sentence: str, words: str) -> bool:
    before = "" if _unspaced(words[0]) else r"(?<!\w)"
    after = "" if _unspaced(words[-1]) else r"(?!\w)"
    pattern = r"\s+".join(map(re.escape, words.split()))
    return re.search(f"{before}{pattern}{after}", sentence) is not None


def _unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_UNSPACED)
