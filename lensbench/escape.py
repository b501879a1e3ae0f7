"""Text from models and prompts, made safe for the place where it is shown."""

from __future__ import annotations

import re
import unicodedata

_INLINE = re.compile(r"([\\`*_\[\]<>|~$&])")  # means something anywhere in a line
_LINE_START = re.compile(r"^( *)([-+#=]|\d+[.)])")  # starts a list, heading or rule
_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # behind any number of quotes
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


def printable_lines(text: str) -> str:
    """Running text with its line ends; other control characters are shown, not obeyed."""
    return "\n".join(printable(line) for line in text.split("\n"))


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
    """`text` for a CSV cell that a spreadsheet does not take for a formula (CSV injection).

    A text that looks escaped already gets one more quote, so that `csv_text` always gives it back.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def csv_text(cell: str) -> str:
    """The text that `csv_cell` made this cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
