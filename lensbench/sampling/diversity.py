"""How texts repeat themselves, and each other: pure functions of words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from statistics import fmean
from typing import Any

from lensbench.errors import packages_of
from lensbench.prompts.scripts import apart
from lensbench.prompts.words import words_of

NGRAM = 4  # of repetition within a text (Welleck et al. 2020: seq-rep-4)

Words = Sequence[str]


def words(text: str) -> list[str]:
    """A text's words in lower case, without punctuation.

    Of a script that puts no spaces between words each character is one, as BLEU has it of Chinese.
    """
    own = apart(text)
    return [own[start:end].lower() for start, end in words_of(own)]


def ngrams(given: Words, n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words, in order."""
    return [tuple(given[i : i + n]) for i in range(len(given) - n + 1)]


def distinct(texts: Sequence[Words], n: int) -> float | None:
    """Different n-grams of several texts over all of theirs, 0..1 (Li et al. 2016).

    None where no text has so many words.
    """
    found = list(chain.from_iterable(ngrams(text, n) for text in texts))
    return len(set(found)) / len(found) if found else None


def repeated(text: Words, n: int = NGRAM) -> float | None:
    """The share of a text's n-grams that stood in it before, 0..1; None of fewer than n words."""
    own = distinct([text], n)
    return None if own is None else 1 - own


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU (0..100) of each text beside all others of the same prompt (Zhu et al. 2018).

    100: all alike. By sacrebleu: tokenisation 13a, exponential smoothing, orders up to the longest
    n-gram there is; words as `words` has them. None of fewer than two texts, or where one has none.

    Raises MissingExtraError without sacrebleu.
    """
    if len(texts) < 2 or not all(map(words, texts)):
        return None
    scorer = bleu()
    spaced = [apart(text) for text in texts]
    others = ([*spaced[:i], *spaced[i + 1 :]] for i in range(len(spaced)))
    found = [scorer.sentence_score(t, o).score for t, o in zip(spaced, others, strict=True)]
    return min(float(fmean(found)), 100.0)


def bleu() -> Any:
    """sacrebleu's scorer of sentences. Raises MissingExtraError without it."""
    with packages_of("quant", "sacrebleu"):
        from sacrebleu.metrics import BLEU
    return BLEU(effective_order=True)
