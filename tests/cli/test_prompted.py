"""A prompt that cannot be read is refused before a model is loaded."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from tests.harness.program import Program
from tests.harness.tiny import Case

VERBS = ("lens", "attention", "sample")


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model is loaded")

    for name in ("load.load_model", "readable.load_readable"):
        monkeypatch.setattr(f"lensbench.models.{name}", load)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_refused(
    verb: str, prompt: str, llama: Case, lensbench: Program
) -> None:
    done = lensbench(verb, llama.folder, prompt)
    assert (done.status, done.out) == (2, "")
    assert "the prompt: it is empty. Write one." in done.said


@pytest.mark.parametrize("verb", VERBS)
def test_a_mistyped_model_is_said_with_an_empty_prompt(verb: str, lensbench: Program) -> None:
    done = lensbench(verb, "smolm2-135m", "nobody", "")
    assert (done.status, done.out) == (2, "")
    for one in ("the prompt: it is empty", "Did you mean smollm2-135m", "nobody"):
        assert one in done.said


@pytest.mark.parametrize("verb", VERBS)
def test_words_without_quotes_are_taken_for_a_prompt(
    verb: str, llama: Case, lensbench: Program
) -> None:
    given = (verb, llama.folder, "The", "cat", "is", "black.")
    done = lensbench(*given)
    assert (done.status, done.out) == (2, "")
    meant = shlex.join(["lensbench", verb, str(llama.folder), "The cat is black."])
    assert f"The, cat, is: no model is called so. Put a prompt in quotes: {meant}." in done.said


@pytest.mark.parametrize("verb", VERBS)
def test_a_mistyped_model_before_a_prompt_in_quotes_is_a_mistyped_model(
    verb: str, llama: Case, lensbench: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    done = lensbench(verb, "smolm2-135m", "The cat is black.")
    assert done.status == 2
    assert "Did you mean smollm2-135m" in done.said


def test_a_verb_of_one_text_says_where_the_rest_belongs(lensbench: Program) -> None:
    done = lensbench("rag", "query", "index", "opening", "hours")
    assert (done.status, done.out) == (2, "")
    assert "Nothing takes 'hours'. Text of several words goes in quotes." in done.said
