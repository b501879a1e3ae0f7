"""What of a text does not come back when its tokens are decoded."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from itertools import pairwise

from lensbench.records.schema.text.tokens import LOSSES


def common_length(a: str, b: str) -> int:
    """Length of the longest common subsequence of two texts (Hyyrö 2004, bit-parallel)."""
    places: dict[str, int] = {}
    for i, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << i
    every = (1 << len(a)) - 1
    rest = every  # a zero for each character of `a` that is matched
    for character in b:
        matched = rest & places.get(character, 0)
        rest = ((rest + matched) | (rest - matched)) & every
    return len(a) - rest.bit_count()


def round_trip(text: str, decoded: str) -> dict[str, int]:
    """Characters of `text` that do not come back in their order, why, and those that come besides.

    Both texts are made alike step by step: in case, in form (decomposed, as Unicode's NFD: a Korean
    syllable is its letters), in marks (category M: accents and Indian vowel signs), in white space.
    What each step mends was lost by it, and what remains is other. `lost` is their sum.
    """
    if text == decoded:
        return dict.fromkeys(("lost", *LOSSES, "added"), 0)
    steps: tuple[Callable[[str], str], ...] = (str.lower, _apart, _bare, _solid)
    lost = [len(text) - common_length(text, decoded)]
    a, b = text, decoded
    for step in steps:
        a, b = step(a), step(b)
        lost.append(min(lost[-1], len(a) - common_length(a, b)))
    mended = [before - after for before, after in pairwise(lost)]
    losses = dict(zip(LOSSES, [*mended, lost[-1]], strict=True))
    return {"lost": lost[0], **losses, "added": len(decoded) - (len(text) - lost[0])}


def _apart(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _bare(text: str) -> str:
    """Without marks, accents taken off letters; of a decomposed text."""
    return "".join(c for c in text if not unicodedata.category(c).startswith("M"))


def _solid(text: str) -> str:
    return "".join(text.split())
