"""Cutting texts: nothing is lost, nothing is too long, and cuts fall where a reader would cut."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from lensbench.quantized.rag.passages import pieces, sections

TEXTS = st.text(st.sampled_from("ab c.\n#!é漢"), max_size=200)


def count(text: str) -> int:
    """A token is a run of at most three letters, or a mark."""
    return len(re.findall(r"\w{1,3}|[^\w\s]", text))


@given(TEXTS, st.integers(1, 12))
def test_pieces_are_the_whole_text_and_fit(text: str, limit: int) -> None:
    found = pieces(text, limit, count)
    assert "".join(found) == text
    assert all(count(piece) <= limit for piece in found)


def test_a_text_that_fits_is_one_piece() -> None:
    assert pieces("one\n\ntwo. three", 10, count) == ["one\n\ntwo. three"]


def test_cuts_fall_between_paragraphs_then_sentences_then_words() -> None:
    assert pieces("a b.\n\nc d.\n\ne f.", 6, count) == ["a b.\n\nc d.\n\n", "e f."]
    assert pieces("a b c. d e f.", 4, count) == ["a b c. ", "d e f."]
    assert pieces("a b c d e", 2, count) == ["a b ", "c d ", "e"]
    assert pieces("abcdefgh", 2, count) == ["abcd", "efgh"]


def test_neighbours_are_put_together_while_they_fit() -> None:
    found = pieces("\n\n".join("a b c" for _ in range(9)), 9, count)
    assert [count(piece) for piece in found] == [9, 9, 9]


@given(TEXTS)
def test_sections_are_the_whole_text(text: str) -> None:
    for markdown in (False, True):
        assert "".join(part for _, part in sections(text, markdown)) == text


def test_headings_start_sections_except_in_code() -> None:
    text = "before\n# One #\nx\n```sh\n# a comment\n```\n## Two\ny\n#no heading\n"
    assert list(sections(text, markdown=True)) == [
        ("", "before\n"),
        ("One", "# One #\nx\n```sh\n# a comment\n```\n"),
        ("Two", "## Two\ny\n#no heading\n"),
    ]
    assert list(sections(text, markdown=False)) == [("", text)]
