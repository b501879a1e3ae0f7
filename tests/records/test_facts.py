"""Facts of two records' models: others are found, and what a record does not say is not known."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

import lensbench
from lensbench.records.facts import TOKENIZER, differing, known_of, same_tokenizer

# Where hashes are made or shown, and a model of pico's own, whose hash is of the whole tokenizer.
MAKE = ("checkpoints/hashes.py", "tokenisation/tokenizer.py", "residuals/store.py")
MAKE += ("pico/text.py", "pico/train.py", "pico/runs.py")


@pytest.mark.parametrize(("ours", "theirs"), product([None, "x", "y"], repeat=2))
@pytest.mark.parametrize("key", TOKENIZER)
def test_any_of_the_files_makes_another_tokenizer(
    key: str, ours: str | None, theirs: str | None
) -> None:
    same = dict.fromkeys(TOKENIZER, "z")
    assert same_tokenizer(same | {key: ours}, same | {key: theirs}) is (ours == theirs)


@pytest.mark.parametrize("key", TOKENIZER)
def test_what_a_record_does_not_say_is_not_known(key: str) -> None:
    whole = dict.fromkeys(TOKENIZER, "z")
    older = {name: "z" for name in TOKENIZER if name != key}
    assert same_tokenizer(whole, older) is None
    assert same_tokenizer(older, whole) is None
    assert same_tokenizer(older, dict.fromkeys(TOKENIZER, "y")) is False


def test_facts_that_came_later_are_no_difference_where_they_are_missing() -> None:
    older, now = {"weights_sha256": "w"}, {"weights_sha256": "w", "added_tokens_sha256": "a"}
    assert known_of(older, now) == older
    assert differing("model", older, now, now) == {}
    assert differing("model", now, older, now) == {"model.added_tokens_sha256": ("a", None)}
    nested = differing("model", {"b": older}, {"b": now | {"weights_sha256": "v"}}, ["b"])
    assert nested == {"model.b.weights_sha256": ("w", "v")}


def test_nothing_else_compares_one_of_the_hashes() -> None:
    """Token ids depend on all of them: whoever names one by itself forgets the others."""
    folder = Path(lensbench.__file__).parent
    own = {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*.py")}
    named = {name for name, text in own.items() if '"tokenizer_sha256"' in text}
    assert named <= {"records/facts.py", *MAKE}
