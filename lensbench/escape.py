"""Text from models and prompts, made safe for the place where it is shown."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable

# What Markdown would obey anywhere in a line: code, emphasis, links, struck text and formulas; a
# backslash before punctuation; an underscore outside a word; what begins or ends a tag or entity.
_INLINE = re.compile(
    r"[`*\[\]~$]|\\(?=[^\w\s]|_|$)|(?<![^\W_])_|_(?![^\W_])"
    r"|<(?=[a-zA-Z/!?]|$)|(?<=[\w\"'/])>|&(?=#?\w*(;|$))"
)
# At the start of a line: a list, heading, quotation or rule.
_LINE_START = re.compile(
    r"^( *)(\d+(?=[.)]))?([-+](?= |$)|-(?=[ -]*$)|(?<=\d)[.)](?= |$)|#(?=#*( |$))|=(?=[= ]*$)|>)"
)
_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # behind any number of quotes
_UNSEEN = ("C", "Z")  # controls, formats, unassigned; separators such as the no-break space
# Marks and letters of which nothing is drawn, such as the sign that makes a heart an emoji
# (Unicode's Default_Ignorable_Code_Point, what is not in category C): alone they would not be seen.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]+"
)
_VISIBLE = {"\n": "⏎", "\r": "␍", "\t": "⇥", " ": "·"}


def visible(token: str) -> str:
    """A token as one visible line: spaces as `·`, line ends as `⏎`, controls as `\\uXXXX`.

    Bidirectional overrides and other format characters (Unicode category C) count as control
    characters: they could reorder or hide the text around them. What is drawn only together with
    another character, as variation selectors are, is spelled where it stands alone.
    """
    if _BLANK.fullmatch(token):
        return "".join(map(_spelled, token))
    return "".join(_visible_character(character) for character in token)


def _visible_character(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    if _is_unseen(character):
        return _spelled(character)
    return character


def _spelled(character: str) -> str:
    return f"\\u{ord(character):04x}"


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character).startswith(_UNSEEN)


def printable(text: str) -> str:
    """Running text on one line: line ends and control characters shown, spaces left as they are."""
    return "".join(c if c == " " else _visible_character(c) for c in text)


def printable_lines(text: str) -> str:
    """Running text with its line ends; other control characters are shown, not obeyed."""
    return "\n".join(printable(line) for line in text.split("\n"))


def printable_json(text: str) -> str:
    """A JSON text that says the same, its unseen characters spelled as JSON spells them."""
    return "".join(json.dumps(c)[1:-1] if c not in " \n" and _is_unseen(c) else c for c in text)


def markdown(text: str) -> str:
    """`text` as literal text inside a Markdown paragraph, heading or list item."""
    return _LINE_START.sub(r"\1\2\\\3", _inline(printable(text)))


def markdown_cell(text: str) -> str:
    """`text` as literal text inside a Markdown table cell."""
    return _inline(printable(text)).replace("|", r"\|")


def markdown_token(token: str) -> str:
    """A token as literal, visible text inside a Markdown table cell."""
    return _inline(visible(token)).replace("|", r"\|")


def _inline(line: str) -> str:
    return _INLINE.sub(lambda found: f"\\{found[0]}", line)


def csv_cell(text: str) -> str:
    """`text` for a CSV cell that a spreadsheet does not take for a formula (CSV injection).

    A text that looks escaped already gets one more quote, so that `csv_text` always gives it back.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def csv_text(cell: str) -> str:
    """The text that `csv_cell` made this cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def csv_of(rows: Iterable[Iterable[str]]) -> str:
    """Rows of text as a CSV, each an escaped cell in quotes, for a lone \\r would end a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows(map(csv_cell, row) for row in rows)
    return text.getvalue()
