"""Prompts and answers as tokens: with and without a space, merged, shared, refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lensbench import InputProblems, Prompt
from lensbench.models.model import LensModel
from lensbench.prompts.encode import Encoder, TokenText, encode_all, null_categories
from lensbench.quantized.style import Question, prompt_ids, response_ids
from tests.harness.tiny import CHAT_TEMPLATE, PROMPTS, tokenizer

GERMANY = "The capital of Germany is"


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerBase:
    return tokenizer("bytes")


def problem_of(encoder: Encoder, prompt: Prompt) -> str:
    encoded, problems = encode_all(encoder, [prompt])
    assert encoded == []
    (problem,) = problems
    assert problem.prompt_id == prompt.id
    return str(problem)


# Answers.


def test_an_answer_follows_after_a_space(tok: PreTrainedTokenizerBase) -> None:
    item = Encoder(tok, 64).encode(Prompt("p", GERMANY, answer="Berlin"))
    assert item.token_ids == tuple(tok(GERMANY).input_ids)
    assert item.answer is not None
    assert tok(f"{GERMANY} Berlin").input_ids == [*item.token_ids, *item.answer.token_ids]
    assert TokenText(tok)(item.answer.id) == " Berlin"


def test_after_a_line_break_the_answer_stands_bare(byte_level: PreTrainedTokenizerBase) -> None:
    item = Encoder(byte_level, 64).encode(Prompt("p", f"{GERMANY}\n", answer="Berlin"))
    assert byte_level.decode(item.answer.token_ids) == "Berlin"


def test_a_longer_answer_is_scored_on_its_first_token(tok: PreTrainedTokenizerBase) -> None:
    item = Encoder(tok, 64).encode(Prompt("p", GERMANY, answer="Berlin of Rome"))
    assert len(item.answer.token_ids) == 3
    assert item.answer.id == item.answer.token_ids[0]
    assert TokenText(tok)(item.answer.id) == " Berlin"


@pytest.mark.parametrize("answer", ["", " ", "\n"])
def test_an_answer_without_tokens_is_refused(tok: PreTrainedTokenizerBase, answer: str) -> None:
    assert "has no tokens" in problem_of(Encoder(tok, 64), Prompt("p", GERMANY, answer=answer))


def test_no_answer_is_no_problem(tok: PreTrainedTokenizerBase) -> None:
    item = Encoder(tok, 64).encode(Prompt("p", GERMANY))
    assert (item.answer, item.category) == (None, None)


def test_answers_that_share_their_first_token_are_marked(
    byte_level: PreTrainedTokenizerBase,
) -> None:
    answers = ["Zorro", "Zebra", "Berlin", "Berlin", None]
    prompts = [Prompt(f"p{i}", GERMANY, answer=answer) for i, answer in enumerate(answers)]
    encoded, problems = encode_all(Encoder(byte_level, 64), prompts)
    assert problems == []
    assert encoded[0].answer.id == encoded[1].answer.id
    # The same answer twice, as a control has it, is no collision.
    shared = [item.shared_with for item in encoded]
    assert shared == ["Zebra", "Zorro", None, None, None]


def test_categories_and_their_null(tok: PreTrainedTokenizerBase) -> None:
    prompts = [
        Prompt("a", GERMANY, answer="Berlin", category="capital"),
        Prompt("b", "People in Brazil", answer="speak", category="river"),
        Prompt("c", GERMANY, answer="Berlin"),
    ]
    assert null_categories(prompts) == {"capital": "river", "river": "capital"}
    encoded, _ = encode_all(Encoder(tok, 64), prompts)
    text = TokenText(tok)
    assert [text(item.category.id) for item in encoded[:2]] == [" capital", " river"]
    assert [item.null_category.text for item in encoded[:2]] == ["river", "capital"]
    assert (encoded[2].category, encoded[2].null_category) == (None, None)
    assert null_categories(prompts[:1]) == {}


# Prompts.


def test_bos_comes_from_the_tokenizer_alone(tok: PreTrainedTokenizerBase) -> None:
    item = Encoder(tok, 64).encode(Prompt("p", GERMANY))
    assert (item.token_ids[0] == tok.bos_token_id) == (tok.bos_token is not None)
    assert item.token_ids.count(1) == (tok.bos_token is not None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the prompt is empty"),
        ("  \n", "the prompt is empty"),
        ("The\0 capital", "NUL byte"),
        (f"{GERMANY} {GERMANY}", "tokens, the model's context holds 8"),
    ],
)
def test_prompts_that_cannot_be_read(tok: PreTrainedTokenizerBase, text: str, words: str) -> None:
    prompts = [Prompt("good", GERMANY), Prompt("bad", text, row=3), Prompt("fine", "Rome")]
    encoded, problems = encode_all(Encoder(tok, 8, where="set.csv"), prompts)
    assert [item.prompt.id for item in encoded] == ["good", "fine"]
    assert {problem.prompt_id for problem in problems} == {"bad"}
    assert any(words in str(p) and "set.csv, row 3, id bad" in str(p) for p in problems)


@pytest.mark.parametrize("closing", ["</s>", "<pad>", "</s> <pad>"])
def test_what_a_tokenizer_puts_after_a_text_is_not_read(closing: str) -> None:
    """Whatever the token is called: a fine-tuned model's own end token may be another one."""
    own, closed = tokenizer("bytes+bos"), tokenizer("bytes+bos")
    special = [(name, own.convert_tokens_to_ids(name)) for name in ("<s>", *closing.split())]
    closed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A {closing}", special_tokens=special
    )
    assert closed(GERMANY).input_ids[-1] != own(GERMANY).input_ids[-1]
    for text in (GERMANY, f"{GERMANY} Berlin</s>"):
        prompt = Prompt("p", text, answer="Berlin")
        one, other = (Encoder(each, 64).encode(prompt) for each in (own, closed))
        assert one == other
        question = Question(text, "none")
        assert prompt_ids(closed, question) == list(own(text).input_ids)
        ends = [own.eos_token_id]
        assert response_ids(closed, question, "Berlin", ends) == response_ids(
            own, question, "Berlin", ends
        )


def test_tokens_that_the_model_was_never_given(tok: PreTrainedTokenizerBase) -> None:
    """A tokenizer may have more tokens than the embedding has rows."""
    d_vocab, tok = len(tok), copy.deepcopy(tok)
    tok.add_tokens(["<new>"])
    prompts = [
        Prompt("asked", "The capital <new> is", answer="Berlin"),
        Prompt("answered", GERMANY, answer="<new>"),
        Prompt("ids", "", token_ids=(4, d_vocab)),
        Prompt("category", GERMANY, answer="Berlin", category="<new>"),
        Prompt("good", GERMANY, answer="Berlin", category="capital"),
    ]
    encoded, problems = encode_all(Encoder(tok, 64, d_vocab=d_vocab), prompts)
    assert [item.prompt.id for item in encoded] == ["category", "good"]
    assert (encoded[0].category, encoded[1].null_category) == (None, None)
    assert [problem.prompt_id for problem in problems] == ["asked", "answered", "ids"]
    assert all(f"token {d_vocab}" in str(problem) for problem in problems)


def test_a_prompt_may_fill_the_context(tok: PreTrainedTokenizerBase) -> None:
    n_tokens = len(tok(GERMANY).input_ids)
    assert len(Encoder(tok, n_tokens).encode(Prompt("p", GERMANY)).token_ids) == n_tokens
    with pytest.raises(InputProblems):
        Encoder(tok, n_tokens - 1).encode(Prompt("p", GERMANY))


# Chat.


def test_a_chat_answer_starts_with_the_prompt() -> None:
    tok = tokenizer("bytes+bos")
    tok.chat_template = CHAT_TEMPLATE
    item = Encoder(tok, 512, "chat").encode(Prompt("p", GERMANY, answer="Berlin"))
    wanted = f"<user> Complete this sentence: {GERMANY}\n<assistant> {GERMANY}"
    assert (item.text, item.template) == (wanted, "chat")
    # The template says itself where a BOS stands, and this one has none.
    assert list(item.token_ids) == tok(wanted, add_special_tokens=False).input_ids
    assert TokenText(tok)(item.answer.id) == " Berlin"


def test_an_empty_prompt_in_a_chat_is_a_problem_too() -> None:
    tok = tokenizer("bytes")
    tok.chat_template = CHAT_TEMPLATE
    assert "empty" in problem_of(Encoder(tok, 512, "chat"), Prompt("p", ""))


def test_a_tokenizer_without_a_template_cannot_chat(tok: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputProblems, match="no chat template") as caught:
        Encoder(tok, 64, "chat")
    assert "--template plain" in str(caught.value)


# Token text.


def test_tokens_read_as_the_text_they_add(tok: PreTrainedTokenizerBase) -> None:
    """SentencePiece's kind drops the leading space of a token that is decoded alone."""
    text = TokenText(tok)
    for prompt in PROMPTS:
        ids = tok(prompt, add_special_tokens=False).input_ids
        assert "".join(text(token) for token in ids).removeprefix(" ") == prompt
        assert all(text(token).startswith(" ") for token in ids[1:] if len(text(token)) > 3)
    assert text(2) == "</s>"


def test_why_tokens_are_not_decoded_alone() -> None:
    tok = tokenizer("spaces")
    token = tok("is Berlin").input_ids[-1]
    assert tok.decode([token]) == "Berlin"
    assert TokenText(tok)(token) == " Berlin"


# Real tokenizers.


@pytest.mark.real
def test_the_demo_model_s_tokenizer(smollm: LensModel) -> None:
    tok = smollm.tokenizer
    item = Encoder(tok, smollm.n_ctx).encode(Prompt("p", GERMANY, answer="Berlin"))
    assert tok.convert_ids_to_tokens(item.answer.token_ids) == ["ĠBerlin"]
    assert item.token_ids[0] != tok.bos_token_id
    text = TokenText(tok)
    assert [text(token) for token in item.token_ids] == [
        "The",
        " capital",
        " of",
        " Germany",
        " is",
    ]
    for text, answer in ((f"{GERMANY} ", "Berlin"), ("He said: ", "no")):
        asked = Encoder(tok, 64).encode(Prompt("p", text, answer=answer))
        assert asked.token_ids == tuple(tok(text).input_ids)
        assert (tok.decode(asked.answer.token_ids), asked.answer.split) == (answer, True)


@pytest.mark.real
def test_the_demo_model_s_chat_template(smollm: LensModel) -> None:
    encoder = Encoder(smollm.tokenizer, smollm.n_ctx, "chat")
    item = encoder.encode(Prompt("p", GERMANY, answer="Berlin"))
    assert item.text.endswith(f"<|im_start|>assistant\n{GERMANY}")
    assert item.text.count(GERMANY) == 2
    start = smollm.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert item.token_ids[0] == start
    assert item.token_ids.count(start) == item.text.count("<|im_start|>")
    assert TokenText(smollm.tokenizer)(item.answer.id) == " Berlin"


@pytest.mark.real
def test_a_real_sentencepiece_vocabulary(gemma3_folder: Path) -> None:
    tok = AutoTokenizer.from_pretrained(gemma3_folder)
    item = Encoder(tok, 1000).encode(Prompt("p", GERMANY, answer="Berlin"))
    assert item.token_ids[0] == tok.bos_token_id
    assert tok.convert_ids_to_tokens(item.answer.token_ids) == ["▁Berlin"]
    text = TokenText(tok)
    assert [text(t) for t in item.token_ids[1:]] == ["The", " capital", " of", " Germany", " is"]
    assert text(item.answer.id) == " Berlin"
    assert text(tok.convert_tokens_to_ids("\n\n")) == "\n\n"
