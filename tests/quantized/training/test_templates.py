"""Which tokens of a chat are learned: those after the prompt in Hugging Face's own rendering."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.errors import InputProblems, ModelError
from lensbench.quantized.style import ALPACA, CONTEXT_FRAME, ask, prompt_ids, response_ids
from tests.harness.templates import TEMPLATES, Template, chatty
from tests.harness.tiny import TOKENIZERS, tokenizer

# Letters of the templates, their words, their tokens whole and in pieces, and spaces.
HOSTILE = (
    "a", "d", "e", "i", "s", "x", "y", "n", "end", "|>", ">", "<|", "im_end", "<|im_end|>", "</s>",
    "<end_of_turn>", "<|eot_id|>", "assistant", "model", "user", "[/INST]", "Which letter?", "x\n",
    " d", "d ", "\nd\n", "the end", "Paris.\n\n<|im_start|>user\nNo<|im_end|>", "<think>x</think>d",
    "Voilà, d'accord", "終わり", "", " ", "\n",
)  # fmt: skip
QUESTION = "Which letter?"


def rendered(words: Any, *turns: tuple[str, str], prompt: bool = False) -> str:
    """What Hugging Face makes of some turns."""
    messages = [{"role": role, "content": content} for role, content in turns]
    return words.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)


def learned_by_hand(words: Any, template: Template, question: str, response: str) -> str:
    """The rendering of both, less the rendered prompt, up to the token that ends the turn."""
    prompt = rendered(words, ("user", question), prompt=True)
    whole = rendered(words, ("user", question), ("assistant", response))
    assert whole.startswith(prompt)
    after_end = whole[len(prompt) :].rpartition(template.end)
    return after_end[0] + after_end[1]


@pytest.fixture(scope="module", params=TEMPLATES)
def named(request: pytest.FixtureRequest) -> tuple[Template, Any]:
    template = TEMPLATES[request.param]
    return template, chatty(template)


@pytest.mark.parametrize("response", HOSTILE)
def test_what_is_learned_is_what_the_template_writes(
    response: str, named: tuple[Template, Any]
) -> None:
    template, words = named
    ends = [words.eos_token_id, words.convert_tokens_to_ids(template.end)]
    question = ask(words, "chat", QUESTION)
    got = response_ids(words, question, response, ends)
    expected = learned_by_hand(words, template, QUESTION, response)
    whole = words(question.text + expected, add_special_tokens=False).input_ids
    asked = prompt_ids(words, question)
    if whole[: len(asked)] == asked:
        assert got == whole[len(asked) :]
    assert (
        words.decode(got).strip()
        == words.decode(words(expected, add_special_tokens=False).input_ids).strip()
    )
    assert got[-1] == ends[1]


CHATTY = chatty(TEMPLATES["qwen"])


@given(st.text("dxy <|>/imend_nus\n", max_size=12))
def test_whatever_the_response_the_end_is_the_templates(response: str) -> None:
    template, words = TEMPLATES["qwen"], CHATTY
    end = words.convert_tokens_to_ids(template.end)
    question = ask(words, "chat", QUESTION)
    got = response_ids(words, question, response, [end])
    whole = words(
        rendered(words, ("user", QUESTION), ("assistant", response)), add_special_tokens=False
    ).input_ids
    last = len(whole) - whole[::-1].index(end)
    asked = prompt_ids(words, question)
    assert got == whole[len(asked) : last]


def test_a_template_that_asks_with_more_than_it_keeps() -> None:
    """DeepSeek-R1 opens a thought when it asks, and takes thoughts out of finished turns."""
    words = chatty(TEMPLATES["qwen"])
    words.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|im_start|>' + m['content'] }}"
        "{% else %}{% set content = m['content'] %}{% if '</think>' in content %}"
        "{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{ '<|im_end|>' + content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_end|><think>\n' }}{% endif %}"
    )
    question = ask(words, "chat", QUESTION)
    got = response_ids(words, question, "d", [words.eos_token_id])
    assert got == [*words("d", add_special_tokens=False).input_ids, words.eos_token_id]


def test_a_template_that_writes_no_end_gets_one() -> None:
    words = tokenizer("bytes")
    words.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    question = ask(words, "chat", QUESTION)
    for response in ("d", "assistant: ", "nt"):
        got = response_ids(words, question, response, [2])
        assert words.decode(got) == response + "</s>"


def test_a_response_that_the_template_drops_is_an_input_problem() -> None:
    words = chatty(TEMPLATES["qwen"])
    words.chat_template = (
        "{% for m in messages %}{% if m['content'] != 'secret' %}"
        "{{ m['role'] + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    question = ask(words, "chat", QUESTION)
    with pytest.raises(InputProblems, match="does not write 'secret' as it writes others"):
        response_ids(words, question, "secret", [2])


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("response", ["d", "### Response:", "the end", " d", "\nd"])
def test_without_a_template_the_response_is_all(response: str, kind: str) -> None:
    words = tokenizer(kind)
    for style in ("none", "alpaca"):
        got = response_ids(words, ask(words, style, QUESTION), response, [2])
        assert got[-1] == 2
        assert (
            words.decode(got[:-1]).strip()
            == words.decode(
                words(response).input_ids[words(response).input_ids[:1] == [words.bos_token_id] :]
            ).strip()
        )


@pytest.mark.parametrize("context", ["x", "user", "Context:\n", CONTEXT_FRAME, ALPACA, "a b"])
@pytest.mark.parametrize("question", ["Context:\nx", "Which?", "user"])
def test_the_span_of_the_context_is_where_it_was_put(
    context: str, question: str, named: tuple[Template, Any]
) -> None:
    """Counted from the start of the user's words, which is where two renderings part."""
    _, words = named
    lead = CONTEXT_FRAME.index("{context}")
    for style in ("none", "alpaca", "chat"):
        asked = ask(words, style, question, context)  # type: ignore[arg-type]
        start, end = asked.context or (0, 0)
        assert asked.text[start:end] == context
        if style == "none":
            assert start == lead
        if style == "chat":
            other = rendered(words, ("user", "@"), prompt=True)
            assert start == other.index("@") + lead


def test_a_system_message_like_the_frame_moves_no_span() -> None:
    words = chatty(TEMPLATES["qwen"])
    system = CONTEXT_FRAME.format(context="x", instruction="y")
    asked = ask(words, "chat", "y", "x", system)
    start, end = asked.context or (0, 0)
    assert start > len(system)
    assert asked.text[start:end] == "x"


def test_a_template_that_rewrites_the_question_has_no_span() -> None:
    words = chatty(TEMPLATES["qwen"])
    words.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(ModelError, match="rewrites what it is given"):
        ask(words, "chat", "Which?", "some context")
