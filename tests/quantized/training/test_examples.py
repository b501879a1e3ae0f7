"""Which tokens of an example are learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lensbench.errors import InputProblems, ModelError
from lensbench.quantized.data.pairs import Pair, style_of
from lensbench.quantized.style import ask, prompt_ids
from lensbench.quantized.training.examples import MASKED, batch_of, encode, end_tokens
from tests.harness.files import write_jsonl
from tests.harness.tiny import CHAT_TEMPLATE, SENTENCES, TOKENIZERS, tokenizer


def encoded_with(kind: str, style: Any, template: str | None = None, max_length: int = 200) -> Any:
    words = tokenizer(kind)
    words.chat_template = template
    pairs = [Pair(f"p{i}", f"Question {i}?", s, row=i) for i, s in enumerate(SENTENCES)]
    return words, encode(words, [words.eos_token_id], pairs, style, max_length, "pairs.jsonl")


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("style", ["alpaca", "none", "chat"])
def test_the_labels_are_the_response_and_its_end(kind: str, style: Any) -> None:
    words, found = encoded_with(kind, style, CHAT_TEMPLATE)
    batch = batch_of(found.examples, range(len(found.examples)))
    for row, example in enumerate(found.examples):
        labels = batch["labels"][row]
        learned = labels[labels != MASKED]
        assert learned[-1] == words.eos_token_id
        assert words.decode(learned[:-1]).strip() == example.pair.response
        masked = batch["input_ids"][row][(labels == MASKED) & (batch["attention_mask"][row] == 1)]
        question = ask(words, style, example.pair.question)
        assert masked.tolist() == prompt_ids(words, question)  # exactly what generation is given
        assert torch.equal(batch["input_ids"][row][labels != MASKED], learned)


def test_a_hand_worked_example() -> None:
    words = tokenizer("bytes")
    pair = Pair("a", "Hi", "Yo", row=1)
    (example,) = encode(words, [2], [pair], "alpaca", 200, "x").examples
    text = "### Instruction:\nHi\n\n### Response:\n"
    assert list(example.token_ids) == words(text).input_ids + words("Yo").input_ids + [2]
    assert example.n_prompt == len(words(text).input_ids)


def test_the_end_that_a_chat_template_writes_is_the_one_that_is_learned() -> None:
    closed = CHAT_TEMPLATE.replace("+ '\\n'", "+ '</s>\\n'")
    words, found = encoded_with("bytes", "chat", closed)
    for example in found.examples:
        response = list(example.token_ids[example.n_prompt :])
        assert response.count(words.eos_token_id) == 1
        assert response[-1] == words.eos_token_id


def test_a_response_that_is_too_long_is_cut_and_listed() -> None:
    _, whole = encoded_with("bytes", "alpaca")
    longest = max(len(example.token_ids) for example in whole.examples)
    _, found = encoded_with("bytes", "alpaca", max_length=longest - 1)
    too_long = [e for e in whole.examples if len(e.token_ids) == longest]
    assert [problem.prompt_id for problem in found.cut] == [e.pair.id for e in too_long]
    said = f"cut from {longest} to {longest - 1} tokens, its end token with it"
    assert {problem.what for problem in found.cut} == {said}
    cut = [e.token_ids for e in found.examples if e.pair in [full.pair for full in too_long]]
    assert cut == [full.token_ids[:-1] for full in too_long]


def test_an_example_with_no_label_is_left_out_and_nothing_but_them_is_refused() -> None:
    words = tokenizer("bytes")
    pairs = [Pair("long", "word " * 60, "x", row=1), Pair("short", "Hi", "Yo", row=2)]
    found = encode(words, [2], pairs, "alpaca", 60, "pairs.jsonl")
    assert [example.pair.id for example in found.examples] == ["short"]
    assert found.problems[0].what.startswith("all labels masked: the prompt alone has")
    assert found.problems[0].where == "pairs.jsonl, row 1, id long"
    with pytest.raises(InputProblems, match="all labels masked"):
        encode(words, [2], pairs[:1], "alpaca", 60, "pairs.jsonl")


def test_a_prompt_that_leaves_room_for_no_label_is_left_out() -> None:
    words, pair = tokenizer("bytes"), Pair("a", "Hi", "Yo", row=1)
    n_prompt = encode(words, [2], [pair], "alpaca", 99, "x").examples[0].n_prompt
    (example,) = encode(words, [2], [pair], "alpaca", n_prompt + 1, "x").examples
    assert len(example.token_ids) == n_prompt + 1
    with pytest.raises(InputProblems, match="all labels masked"):
        encode(words, [2], [pair], "alpaca", n_prompt, "x")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_prompt_and_response_are_tokenised_as_one_text(kind: str) -> None:
    """As a model meets them when it goes on: SentencePiece would start a text of its own with ▁."""
    words, found = encoded_with(kind, "alpaca")
    for example in found.examples:
        text = (
            f"### Instruction:\n{example.pair.question}\n\n### Response:\n{example.pair.response}"
        )
        assert list(example.token_ids) == [*words(text).input_ids, words.eos_token_id]


def test_a_pair_with_a_token_that_the_model_was_never_given_is_left_out() -> None:
    words = tokenizer("bytes")
    d_vocab = len(words)
    words.add_tokens(["<new>"])
    pairs = [Pair(f"p{i}", text, text, row=i) for i, text in enumerate(("Rome", "a <new> b"))]
    found = encode(words, [2], pairs, "alpaca", 200, "pairs.jsonl", d_vocab)
    assert [example.pair.id for example in found.examples] == ["p0"]
    (problem,) = found.problems
    assert problem.prompt_id == "p1" and f"token {d_vocab} has no row" in problem.what


def test_a_system_message_needs_a_chat_template() -> None:
    words = tokenizer("bytes")
    words.chat_template = CHAT_TEMPLATE
    pairs = [Pair("a", "Hi", "Yo", system="Be brief.", row=1), Pair("b", "Hi", "Yo", row=2)]
    found = encode(words, [2], pairs, "alpaca", 99, "x")
    assert [problem.prompt_id for problem in found.problems] == ["a"]
    (example, _) = encode(words, [2], pairs, "chat", 99, "x").examples
    assert words.decode(example.token_ids).startswith("<system> Be brief.\n<user> Hi")


def test_the_form_of_the_rows_decides_the_style(tmp_path: Path, data: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    chat = write_jsonl(tmp_path / "chat.jsonl", [{"id": "a", "messages": turns}])
    assert (style_of(data), style_of(chat), style_of(tmp_path / "x.csv")) == (
        "alpaca",
        "chat",
        "alpaca",
    )


def test_the_checkpoints_own_end_tokens_follow_the_tokenizers(tmp_path: Path) -> None:
    words = tokenizer("bytes")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    assert end_tokens(words, tmp_path) == [2, 7]
    words.eos_token = None
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(ModelError, match="end token"):
        end_tokens(words, tmp_path)
