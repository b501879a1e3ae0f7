"""The joint: what an author writes between a prompt and the word that follows it.

The rule is orthography's, not a tokenizer's, so that every model is asked for the same text. White
space that is written, at the end of the prompt or the start of the word, is honoured. Where none
is written, a space stands between words of scripts that have spaces, and nothing after an opening
quote or bracket, in an unspaced script, after an operator without a space before it (`2+2=`), or
before a closing mark.
"""

from __future__ import annotations

import unicodedata
from itertools import takewhile
from typing import Literal

# "space_token": a space that the tokenizer writes as a token of its own, so it ends the prompt.
Joint = Literal["written", "space", "none", "space_token"]

_PREFIXES = "#@\\¿¡"  # they belong to what follows
_OPERATORS = "/*&^"  # Unicode files these under punctuation
_ENDINGS = ("s", "t", "d", "m", "re", "ve", "ll")  # of English words, after an apostrophe
_PAIRED = "\"'`"  # the same mark opens and closes
_UNSPACED = ("THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")


def joint_of(text: str, word: str) -> Joint:
    """How `word` follows `text`: as written, after a space, or with nothing between."""
    if not text or text[-1].isspace() or word[:1].isspace():
        return "written"
    return "none" if _touches(text, word) else "space"


def between(joint: Joint) -> str:
    """The text that a joint adds."""
    return " " if joint == "space" else ""


def _touches(text: str, word: str) -> bool:
    last, first = text[-1], word[:1]
    kind = unicodedata.category(last)
    return (
        _unspaced(last)
        or (_unspaced(first) and any(map(_unspaced, text)))
        or _closes(first)
        or _leans(text, word)
        or last in _PREFIXES
        or kind in ("Ps", "Pi", "Sc")
        or (last in _PAIRED and _opens(text))
        or (_is_operator(last) and _stands_close(text))
        or (last == "." and text[-2:-1].isdigit() and first.isdigit())
    )


def _unspaced(character: str) -> bool:
    """Whether its script is written without spaces between words: Han, kana, Thai, ..."""
    if not character:
        return False
    name = unicodedata.name(character, "")
    wide = unicodedata.east_asian_width(character) in "WF" and not name.startswith("HANGUL")
    # An emoji is as wide, and stands among spaces.
    return (wide and unicodedata.category(character) != "So") or name.startswith(_UNSPACED)


def _leans(text: str, word: str) -> bool:
    """Whether a word is the end of the one before it, after an apostrophe: `'s`, `'t`, `'ll`."""
    return text[-1].isalnum() and word[:1] in ("'", "\u2019") and word[1:] in _ENDINGS


def _closes(first: str) -> bool:
    """Whether a word that starts so leans on what stands before it: `.`, `)`, `»`, `%`."""
    return bool(first) and (unicodedata.category(first) in ("Pe", "Pf") or first in ".,;:!?%…‰°")


def _opens(text: str) -> bool:
    """Whether the quote that ends `text` opens: the first of a pair on its line.

    An apostrophe in a word is no quote; at its end, as in "l'", it takes the next word to itself.
    """
    mark, before = text[-1], text[-2:-1]
    if mark == "'":
        return before.isalpha() or not before.strip() or unicodedata.category(before) == "Ps"
    return text.rpartition("\n")[2].count(mark) % 2 == 1


def _is_operator(character: str) -> bool:
    kinds = ("Sm", "Sk", "Pd", "Pc")
    marks = character in _OPERATORS or unicodedata.category(character) in kinds
    return marks and character not in _PAIRED


def _stands_close(text: str) -> bool:
    """Whether the operators that end `text` have no space before them: `2+2=`, unlike `2 + 2 =`."""
    run = len(list(takewhile(_is_operator, reversed(text))))
    return bool(text[:-run]) and not text[-run - 1].isspace()
