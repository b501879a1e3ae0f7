"""Passages: a text cut into pieces that an embedding model can take whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

# Where a text may be cut, best first: paragraphs, lines, sentences, words. Each pattern matches
# the empty place after the separator, so that the pieces together are the text.
_CUTS = tuple(re.compile(p) for p in (r"(?<=\n\n)", r"(?<=\n)", r"(?<=[.!?;:。！？] )", r"(?<=\s)"))
_HEADING = re.compile(r" {0,3}#{1,6}(\s|$)")
_FENCE = re.compile(r" {0,3}(```|~~~)")

Count = Callable[[str], int]


def pieces(text: str, limit: int, count: Count) -> list[str]:
    """`text` in consecutive pieces of at most `limit` tokens each, as few cuts as the rule makes.

    Pieces joined are `text`. A cut is made after a paragraph where one fits, else after a line, a
    sentence, a word, and inside a word only where the word alone is too long. A single character
    is a piece however many tokens it has.
    """
    return _pieces(text, limit, count, 0)


def _pieces(text: str, limit: int, count: Count, level: int) -> list[str]:
    if len(text) <= 1 or count(text) <= limit:
        return [text]
    if level == len(_CUTS):
        half = len(text) // 2
        return _pieces(text[:half], limit, count, level) + _pieces(text[half:], limit, count, level)
    packed: list[str] = []
    for part in _CUTS[level].split(text):
        for piece in _pieces(part, limit, count, level + 1):
            if packed and count(packed[-1] + piece) <= limit:
                packed[-1] += piece
            else:
                packed.append(piece)
    return packed


def sections(text: str, markdown: bool) -> Iterator[tuple[str, str]]:
    """A text's parts as (heading, part with its heading line); a plain text is one part.

    A line like a heading inside a fenced block of code is none.
    """
    heading, fenced = "", False
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        fenced ^= bool(_FENCE.match(line))
        if markdown and not fenced and _HEADING.match(line):
            yield heading, "".join(lines)
            heading, lines = line.strip().strip("#").strip(), []
        lines.append(line)
    yield heading, "".join(lines)
