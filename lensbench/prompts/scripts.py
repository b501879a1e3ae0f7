"""What a text consists of: scripts of its characters, and words."""

from __future__ import annotations

from functools import cache

import regex

_UNSPACED = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
_SCRIPTS = (
    *("Latin", "Cyrillic", "Greek", "Armenian", "Georgian", "Hebrew", "Arabic", "Ethiopic"),
    *("Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada"),
    *("Malayalam", "Sinhala", "Hangul", *_UNSPACED),
)
_OF = regex.compile("|".join(rf"(?P<{name}>\p{{Script={name}}})" for name in _SCRIPTS))
_NONE = regex.compile(r"\p{Script=Common}|\p{Script=Inherited}|\p{Script=Unknown}")
_ALONE = regex.compile("[" + "".join(rf"\p{{Script={one}}}" for one in _UNSPACED) + r"]\p{M}*")
_WORDSPACE = "\u1361"  # of the Ethiopic script, between words in place of a space
OTHER = "other"  # a script that is not listed here
NO_WORDS = "a script written without spaces between words"


@cache
def script_of(character: str) -> str | None:
    """The script (Unicode's property of that name); None for what belongs to several or none.

    Spaces, digits and most punctuation belong to several, and so do marks that any letter can
    carry, and the danda of Indian scripts.
    """
    if found := _OF.match(character):
        return str(found.lastgroup)
    return None if _NONE.match(character) else OTHER


def apart(text: str) -> str:
    """With spaces around each character of a script that puts none between words, marks with it."""
    return str(_ALONE.sub(r" \g<0> ", text))


def count_words(text: str) -> int | None:
    """Stretches without white space, punctuation being part of the word that it stands at.

    The Ethiopic wordspace counts as white space.

    None for a text with letters of a script that puts no spaces between words.
    """
    if any(script_of(character) in _UNSPACED for character in set(text)):
        return None
    return len(text.replace(_WORDSPACE, " ").split())
