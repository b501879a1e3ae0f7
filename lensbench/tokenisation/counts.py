"""What a tokenizer does to one text, counted: plain numbers from pieces."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from lensbench.prompts.scripts import count_words, script_of
from lensbench.records.schema.text.tokens import FATES
from lensbench.tokenisation.round_trip import round_trip
from lensbench.tokenisation.texts import Text
from lensbench.tokenisation.tokenizer import BYTE_KINDS, Piece, Tokenizer

_SPACE = "▁"  # as SentencePiece writes it


def text_counts(
    tokenizer: Tokenizer, text: Text, pieces: Sequence[Piece], own_fates: Sequence[str]
) -> dict[str, Any]:
    """Sizes of a text, its tokens by kind, and what is lost when they are decoded.

    `own_fates` are what `fates` gives of its characters.
    """
    kinds: Counter[str] = Counter(piece.kind for piece in pieces)
    unread = ("unknown", "dropped")
    solid = [f for c, f in zip(text.text, own_fates, strict=True) if not c.isspace()]
    decoded = tokenizer.text(pieces)
    return {
        "model": tokenizer.name,
        "text_id": text.id,
        "language": text.language,
        "script": text.script,
        "article": text.article,
        "n_characters": len(text.text),
        "n_bytes": len(text.text.encode()),
        "n_words": count_words(text.text),
        "n_tokens": len(pieces),
        "n_unknown": kinds["unknown"],
        "n_unread": sum(fate in unread for fate in solid),
        "n_solid": len(solid),
        "n_byte_tokens": sum(kinds[kind] for kind in BYTE_KINDS),
        "n_special": kinds["special"],
        "decoded": decoded if text.language is None else None,
        **{f"n_{name}": number for name, number in round_trip(text.text, decoded).items()},
    }


def with_ratios(counts: pd.DataFrame) -> pd.DataFrame:
    """Rows of `text_counts` with tokens per word, characters and bytes per token, and shares.

    Null where there is nothing to divide by: no words, or no tokens.
    """
    tokens, words = (counts[name].where(counts[name] > 0) for name in ("n_tokens", "n_words"))
    return counts.assign(
        tokens_per_word=counts["n_tokens"] / words,
        characters_per_token=counts["n_characters"] / tokens,
        bytes_per_token=counts["n_bytes"] / tokens,
        unknown_share=counts["n_unknown"] / tokens,
        byte_share=counts["n_byte_tokens"] / tokens,
        lost_share=counts["n_lost"] / counts["n_characters"],
    )


def script_counts(
    tokenizer: Tokenizer, text: Text, own_fates: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """For each script of a text the fates of its characters, a row each."""
    by_script: dict[str, Counter[str]] = defaultdict(Counter)
    for character, fate in zip(text.text, own_fates, strict=True):
        if script := script_of(character):
            by_script[script][fate] += 1
    for script, counts in by_script.items():
        yield {
            "model": tokenizer.name,
            "text_id": text.id,
            "language": text.language,
            "article": text.article,
            "script": script,
            "n_characters": counts.total(),
            **{f"n_{fate}": counts[fate] for fate in FATES},
        }


def fates(text: str, pieces: Sequence[Piece]) -> list[str]:
    """What becomes of each character of a text.

    dropped: no token holds it, such as white space, or a mark that a tokenizer takes off; unknown:
    the unknown token stands for it; whole: one token holds it, alone or with others, in whatever
    case and form; single_bytes: each byte of it is a token of its own; split: several tokens share
    it otherwise.
    """
    own: list[list[Piece]] = [[] for _ in text]
    for piece in pieces:
        if piece.token == _SPACE and not text[piece.start : piece.end].isspace():
            continue  # put before a text, it stands for none of it
        for of in own[piece.start : piece.end]:
            of.append(piece)
    return [_fate(character, of) for character, of in zip(text, own, strict=True)]


def _fate(character: str, pieces: Sequence[Piece]) -> str:
    if len(pieces) == 1:
        if pieces[0].kind == "unknown":
            return "unknown"
        held = pieces[0].kind == "byte" or holds(pieces[0].shown, character)
        return "whole" if held else "dropped"
    kinds = {piece.kind for piece in pieces}
    if not kinds or "unknown" in kinds:
        return "unknown" if kinds else "dropped"
    if kinds != {"byte"} or len({piece[-2:] for piece in pieces}) > 1:
        return "split"
    # Characters that follow each other may share one place in the text, and what is taken off
    # between them, such as a joiner, stands there too: none of the bytes is its own.
    spelt = bytes(int(piece.shown[3:5], 16) for piece in pieces).decode("utf-8", "replace")
    return "single_bytes" if holds(spelt, character) else "dropped"


@lru_cache(maxsize=1 << 16)
def holds(token: str, character: str) -> bool:
    """Whether a token's text has a character, or what is left of it without case and accent.

    Where a tokenizer takes marks off, its tokens still span the places of those.
    """
    return character in token or _bare(character)[0] in _bare(token.replace(_SPACE, " "))


@lru_cache(maxsize=1 << 16)
def _bare(text: str) -> str:
    return unicodedata.normalize("NFKD", text.lower())


def piece_rows(
    tokenizer: Tokenizer, text: Text, pieces: Sequence[Piece]
) -> Iterator[dict[str, Any]]:
    """The tokens of a text, a row each."""
    for position, piece in enumerate(pieces):
        yield {
            "model": tokenizer.name,
            "text_id": text.id,
            "position": position,
            "token_id": piece.token_id,
            "token": piece.token,
            "shown": piece.shown,
            "token_kind": piece.kind,
            "first_character": piece.start,
            "end_character": piece.end,
        }
