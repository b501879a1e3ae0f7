"""Text from models and prompts, made safe for the place where it is shown."""

from __future__ import annotations

import re
import unicodedata

_INLINE = re.compile(r"([\\`*_\[\]<>|~$&])")  # means something anywhere in a line
_LINE_START = re.compile(r"^( *)([-+#=]|\d+[.)])")  # starts a list, heading or rule
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_UNSEEN = ("C", "Z")  # controls, formats, unassigned; separators such as the no-break space
_VISIBLE = {"\n": "⏎", "\r": "␍", "\t": "⇥", " ": "·"}


def visible(token: str) -> str:
    """A token as one visible line: spaces as `·`, line ends as `⏎`, controls as `\\uXXXX`.

    Bidirectional overrides and other format characters (Unicode category C) count as control
    characters: they could reorder or hide the text around them.
    """
    return "".join(_visible_character(character) for character in token)


def _visible_character(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    if unicodedata.category(character).startswith(_UNSEEN):
        return f"\\u{ord(character):04x}"
    return character


def printable(text: str) -> str:
    """Running text on one line: line ends and control characters shown, spaces left as they are."""
    return "".join(c if c == " " else _visible_character(c) for c in text)


def markdown(text: str) -> str:
    """`text` as literal text inside a Markdown paragraph or table cell."""
    return _markdown(printable(text))


def markdown_token(token: str) -> str:
    """A token as literal, visible text inside a Markdown table cell."""
    return _markdown(visible(token))


def _markdown(line: str) -> str:
    escaped = _INLINE.sub(r"\\\1", line)
    return _LINE_START.sub(lambda m: f"{m[1]}{m[2][:-1]}\\{m[2][-1]}", escaped)


def csv_cell(text: str) -> str:
    """`text` for a CSV cell that a spreadsheet does not take for a formula (CSV injection)."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
