"""`lensbench sample` as a user runs it."""

from __future__ import annotations

import json

import pytest

from tests.harness.program import Program
from tests.harness.tiny import Case

PROMPT = "The capital of Germany is"


def test_the_grid_is_a_table_of_80_columns(
    lensbench: Program, llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = lensbench("sample", llama.folder, PROMPT, "--grid", "--device", "cpu")
    assert done.status == 0
    assert max(map(len, done.out.splitlines())) <= 80
    for name in ("greedy", "T=0.1", "top-p=0.9", "min-p=0.05", "penalty=1.2", "T=0.7 top-p=0.9"):
        assert f"\n {name} " in done.out


def test_options_stand_beside_the_models_own(lensbench: Program, llama: Case) -> None:
    done = lensbench(
        *("sample", llama.folder, PROMPT, "--temperature", "0.7", "--top-k", "3", "--texts", "2"),
        *("--max-new-tokens", "5", "--json"),
    )
    (found,) = json.loads(done.out)
    assert [row["setting"] for row in found["settings"]] == ["T=1", "T=0.7 top-k=3"]
    assert [row["n_kept"] for row in found["settings"]] == [384, 3]
    assert [text["draw"] for text in found["texts"]] == [0, 1, 0, 1]
    assert {text["n_tokens"] for text in found["texts"]} <= {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("x", "--temperature", "-1", "--top-p", "0"),
            "--top-p: it is 0. Give more than 0 and at most 1",
        ),
        (("x", "--temperature", "-1"), "--temperature: it is -1. Give 0 (greedy), or a number"),
        (("x", "--top-p", "1.5"), "Give more than 0 and at most 1"),
        (("x", "--temperature", "0", "--top-k", "3"), "--top-k: it has no effect at temperature 0"),
        (("x", "--top-k", "999999"), "- top-k=999999: the model's vocabulary has 384 tokens"),
        (("x", "--grid", "--top-k", "3"), "settings are named in more than one way"),
        (("x", "--settings", "T=9999"), "Give 0 (greedy)"),
        (("x", "--seed", "1"), "--seed: it has no effect without --texts"),
        (("",), "the prompt: it is empty"),
        ((), "give a model and a prompt"),
    ],
)
def test_bad_input_says_what_is_wrong(
    lensbench: Program, llama: Case, arguments: tuple[str, ...], message: str
) -> None:
    done = lensbench("sample", llama.folder, *arguments)
    assert done.status == 2
    assert message in done.said


def test_a_prompt_that_is_too_long_is_called_the_prompt(lensbench: Program, llama: Case) -> None:
    done = lensbench("sample", llama.folder, "far " * 9000)
    assert done.status == 2
    assert " - prompt: the prompt has" in done.err


def test_an_unknown_model_is_answered_with_the_nearest(lensbench: Program) -> None:
    done = lensbench("sample", "smolm2-135m", PROMPT)
    assert (done.status, "Did you mean smollm2-135m" in done.said) == (2, True)


def test_texts_of_a_model_are_escaped(lensbench: Program, llama: Case) -> None:
    done = lensbench("sample", llama.folder, "[bold]x[/bold] \x1b[31m", "--texts", "1")
    assert done.status == 0
    assert "\x1b" not in done.out
