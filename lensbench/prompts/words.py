"""Words of a text, and the tokens that each of them is to a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import regex

from lensbench.errors import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Marks belong to their letter (vowel signs of Indian scripts, accents written apart), and joiners
# to their word; `re` has neither in \w.
_PART = r"[\p{L}\p{N}_][\p{L}\p{N}\p{M}_\u200c\u200d]*"
PART = regex.compile(_PART)  # as \w+, marks and joiners with it
_WORD = regex.compile(rf"{_PART}(?:['\u2019-]{_PART})*")


class Span(NamedTuple):
    """Characters of a text, from `start` to before `end`."""

    start: int
    end: int


def words_of(text: str) -> list[Span]:
    """The words: letters and digits, with apostrophes and hyphens within; no other punctuation.

    >>> [text[start:end] for text in ["The mayor's hat."] for start, end in words_of(text)]
    ['The', "mayor's", 'hat']
    """
    return [Span(*found.span()) for found in _WORD.finditer(text)]


@dataclass(frozen=True)
class Alignment:
    """A text's words, and of each the positions of its tokens: none where they cannot be told."""

    words: list[Span]
    positions: list[tuple[int, ...]]
    problems: list[Problem]


def align(
    tokenizer: PreTrainedTokenizerBase, text: str, token_ids: Sequence[int], where: str
) -> Alignment:
    """The tokens of each word of `text`, which is `token_ids` to the model.

    A token belongs to the word that it has characters of, whatever else it holds: a space before, a
    full stop behind. A word is not aligned, and a problem, where a token is of two words, or where
    some of its characters are in no token.

    Args:
        where: the place of the text, for problems.
    """
    words, tokens = words_of(text), token_spans(tokenizer, text, token_ids)
    found = [_tokens_of(word, tokens) for word in words]
    owners: dict[int, int] = {}
    for positions in found:
        for position in positions:
            owners[position] = owners.get(position, 0) + 1
    kept, problems = [], []
    for word, positions in zip(words, found, strict=True):
        shared = any(owners[position] > 1 for position in positions)
        kept.append(() if shared else positions)
        if not kept[-1]:
            why = "is in one token with another" if shared else "is not what its tokens say"
            what = f"the word {text[word.start : word.end]!r} {why}"
            problems.append(Problem(where, what, "It is left out; other words may do."))
    return Alignment(words, kept, problems)


def _tokens_of(word: Span, tokens: Sequence[Span]) -> tuple[int, ...]:
    """The positions whose tokens hold a word; none where they do not hold all of it."""
    own = [i for i, one in enumerate(tokens) if max(one.start, word.start) < min(one.end, word.end)]
    held = {c for i in own for c in range(tokens[i].start, tokens[i].end)}
    return tuple(own) if held.issuperset(range(word.start, word.end)) else ()


def token_spans(
    tokenizer: PreTrainedTokenizerBase, text: str, token_ids: Sequence[int]
) -> list[Span]:
    """The characters of `text` that each token holds; none for one that stands for no text.

    By the tokenizer's own offsets where it has them. Otherwise a token holds what decoding it adds
    to those before, as far as that is the text: a tokenizer that writes its text otherwise (in
    lower case, say) holds none of what follows.
    """
    if tokenizer.is_fast:
        encoded = tokenizer(text, return_offsets_mapping=True)
        own, spans = list(encoded.input_ids), [Span(*pair) for pair in encoded.offset_mapping]
        agrees = own[: len(token_ids)] == list(token_ids)
        return spans[: len(token_ids)] if agrees else [Span(0, 0)] * len(token_ids)
    special = set(tokenizer.all_special_ids)
    spans, end = [], 0
    for n, token in enumerate(token_ids, start=1):
        start = end
        if token not in special:
            said = tokenizer.decode(
                token_ids[:n], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            end = max(start, _n_common(str(said), text))
        # Of a character in several tokens the first ones add nothing that can be written.
        spans.append(Span(start, max(end, start + (token not in special))))
    return spans


def _n_common(a: str, b: str) -> int:
    """How many characters two texts have in common at their start."""
    differ = (n for n, (one, other) in enumerate(zip(a, b, strict=False)) if one != other)
    return next(differ, min(len(a), len(b)))
