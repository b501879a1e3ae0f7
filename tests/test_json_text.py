"""JSON of somebody else: it says what `json` says, or is refused in words."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.json_text import MOST_BYTES, parse_json, read_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_what_is_plain_json_is_read_as_it_is(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


@given(st.text() | st.binary())
def test_whatever_else_is_a_value_error(text: str | bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nests too deeply"),
        ("9" * 10_000, "digits"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"x": {"a": 1, "b": 0, "a": 2}}', "'a' stands twice"),
    ],
)
def test_what_readers_would_differ_about_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_a_key_that_says_the_same_twice_is_no_harm() -> None:
    assert parse_json('{"a": [1], "a": [1]}') == {"a": [1]}


def test_only_regular_files_of_a_bounded_size_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(ValueError, match="no regular file"):
            read_json(tmp_path / name)
    with (tmp_path / "large").open("wb") as handle:
        handle.truncate(MOST_BYTES + 1)
    with pytest.raises(ValueError, match="more than"):
        read_json(tmp_path / "large")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")
