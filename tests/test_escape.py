"""Escaping: whatever a model or a prompt holds, it is shown as literal, harmless text."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from lensbench.escape import (
    csv_cell,
    csv_text,
    markdown,
    markdown_cell,
    markdown_token,
    printable,
    visible,
)

NASTY = [
    "|",
    r"a\|b",
    "`code` **bold** __bold__ ~~gone~~",
    "[link](http://example.org) ![image](x.png)",
    "<script>alert(1)</script> <!-- -->",
    "&lt; &#65; &amp",
    "# heading",
    "1. list",
    "- list",
    "$x^2$",
    "two\n\n# lines",
    "\x1b[31mred\x1b[0m\a\x00",
    "\u202eright to left\u2066",
    "\u2028line\u2029paragraph\x85",
    "\ufeff\u200b\u00ad",
    "trailing \\",
    "=HYPERLINK(1)",
]
COMMONMARK = MarkdownIt("commonmark").enable(["table", "strikethrough"])
anything = st.text() | st.text(st.sampled_from("\\`*_{}[]()<>#+!|~$&-. 1a\n\t\"':=@/^"))
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def harmful(text: str) -> list[str]:
    """Characters that break a line, control a terminal or reorder the text around them."""
    bad = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return [c for c in text if unicodedata.category(c) in bad or c in LINE_ENDS]


def test_what_the_tests_call_harmful_is_there() -> None:
    assert len(harmful("\x1b\n\u202e\u2028a ")) == 4


@pytest.mark.parametrize("shown", [visible, printable, markdown, markdown_cell, markdown_token])
@given(text=anything)
@example("".join(NASTY))
def test_no_line_end_control_or_bidi_character_gets_through(shown: object, text: str) -> None:
    assert harmful(shown(text)) == []  # type: ignore[operator]


@given(anything)
@example("a b\tc")
def test_a_visible_token_has_no_white_space_that_cannot_be_seen(token: str) -> None:
    assert not set(visible(token)) & {" ", "\t", "\n", "\r"}


@given(anything)
def test_what_is_printable_stays_as_it_is(text: str) -> None:
    assert printable(printable(text)) == printable(text)
    assert visible(visible(text)) == visible(text)


def test_spaces_controls_and_line_ends_have_their_signs() -> None:
    assert visible(" a\n\t\r\x1b\u202e") == "·a⏎⇥␍\\u001b\\u202e"
    assert printable(" a\nb\x00") == " a⏎b\\u0000"


def test_a_mark_that_is_drawn_with_others_only_is_seen_where_it_stands_alone() -> None:
    assert visible("\ufe0f") == "\\ufe0f"
    assert visible("\u034f\U000e0101") == "\\u034f\\ue0101"
    assert visible("❤\ufe0f") == "❤\ufe0f"


def inline_text(tokens: list[Token]) -> str:
    """The text of a rendered document; fails on anything but text."""
    parts = [child for token in tokens for child in token.children or []]
    kinds = {child.type for child in parts}
    assert kinds <= {"text", "text_special"}, kinds
    return "".join(child.content for child in parts)


@given(anything)
@example("".join(NASTY))
def test_markdown_in_a_paragraph_is_literal(text: str) -> None:
    tokens = COMMONMARK.parse(f"x {markdown(text)} y")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert inline_text(tokens) == f"x {printable(text)} y"


@given(anything.filter(str.strip))
@example("1. list")
@example("12) list")
@example("- list")
@example("# heading")
@example("---")
@example("===")
@example("+")
@example("[a]: http://example.org")
def test_markdown_at_the_start_of_a_paragraph_is_literal(text: str) -> None:
    tokens = COMMONMARK.parse(markdown(text.lstrip()))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert inline_text(tokens) == printable(text.lstrip()).strip(" ")


@pytest.mark.parametrize("nasty", NASTY)
def test_markdown_of_nasty_text_is_literal(nasty: str) -> None:
    assert inline_text(MarkdownIt("commonmark").parse(f"x {markdown(nasty)} y")) == (
        f"x {printable(nasty)} y"
    )


@given(anything, anything)
@example(r"\|", "|")
@example("a\\", "b")
def test_markdown_in_a_table_cell_is_literal(left: str, right: str) -> None:
    page = f"| a | b |\n| --- | --- |\n| x{markdown_cell(left)}x | x{markdown_token(right)}x |\n"
    tokens = COMMONMARK.parse(page)
    cells = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open"]
    assert [inline_text([cell]) for cell in cells] == [
        f"x{printable(left)}x",
        f"x{visible(right)}x",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "0.0001",
        "2.8e-07 bits",
        "-0.17",
        "answer_first",
        "settings.n_train",
        "a < b > c",
        "AT&T, R & D",
        "tiny|a",
        "C:\\new",
        "+1.5",
        "#5",
    ],
)
def test_what_markdown_would_not_obey_is_not_escaped(text: str) -> None:
    assert markdown(text) == text
    assert markdown_cell(text) == text.replace("|", r"\|")


@given(anything)
def test_rendered_markdown_holds_no_tag_of_the_text(text: str) -> None:
    html = MarkdownIt("commonmark", {"html": True}).render(f"x {markdown(text)}")
    assert set(re.findall(r"</?[A-Za-z!][^>]*>", html)) <= {"<p>", "</p>"}


@given(anything)
@example("=1+1")
@example("+1")
@example("-1")
@example("@SUM(A1)")
@example("\t=1")
@example("\r=1")
@example("'=1")
def test_a_csv_cell_is_never_a_formula(text: str) -> None:
    assert csv_cell(text)[:1] not in {"=", "+", "-", "@", "\t", "\r"} or not text
    assert csv_text(csv_cell(text)) == text


def test_harmless_csv_cells_stay_as_they_are() -> None:
    assert [csv_cell(text) for text in ("", "Berlin", " a-b", "1.5")] == [
        "",
        "Berlin",
        " a-b",
        "1.5",
    ]
