"""Styles: how an instruction, with retrieved context, becomes the text that a model continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

from lensbench.errors import InputProblems, ModelError, Problem
from lensbench.prompts.closing import without_closing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Style = Literal["none", "alpaca", "chat"]

# The frame that retrieved context stands in, before the instruction it belongs to.
CONTEXT_FRAME = "Use this context if it helps.\n\nContext:\n{context}\n\nQuestion:\n{instruction}"
ALPACA = "### Instruction:\n{instruction}\n\n### Response:\n"


Turn = tuple[str, str]  # who speaks, and the words


@dataclass(frozen=True)
class Question:
    """What is put to a model. `context` is the span of characters of `text` that was retrieved.

    `turns` are what the chat template made `text` of, in style "chat".
    """

    text: str
    style: Style
    context: tuple[int, int] | None = None
    turns: tuple[Turn, ...] = ()


def ask(
    tokenizer: PreTrainedTokenizerBase,
    style: Style,
    instruction: str,
    context: str | None = None,
    system: str = "",
) -> Question:
    """The instruction in the model's style, with the retrieved context inside it, if any.

    Only a chat template has a place for a `system` message; other styles leave it out.
    Raises ModelError for style "chat" with a tokenizer that has no chat template, or one that
    rewrites the context.
    """
    body = instruction
    if context is not None:
        body = CONTEXT_FRAME.format(context=context, instruction=instruction)
    turns = _turns(body, system) if style == "chat" else ()
    text = _framed(tokenizer, style, body, system)
    if context is None:
        return Question(text, style, turns=turns)
    start = len(_before(tokenizer, style, system)) + len(CONTEXT_FRAME.partition("{context}")[0])
    end = start + len(context)
    if text[start:end] != context:
        raise ModelError(
            "The model's chat template rewrites what it is given, so nobody can say where the "
            "retrieved context is in the prompt. Use --style alpaca or none."
        )
    return Question(text, style, (start, end), turns)


def _framed(tokenizer: PreTrainedTokenizerBase, style: Style, body: str, system: str = "") -> str:
    if style == "none":
        return body
    if style == "alpaca":
        return ALPACA.replace("{instruction}", body)
    return _rendered(tokenizer, _turns(body, system), prompt=True)


def _turns(body: str, system: str) -> tuple[Turn, ...]:
    return (*([("system", system)] if system else []), ("user", body))


def _rendered(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], prompt: bool = False
) -> str:
    """What the chat template makes of some turns; with `prompt` the assistant's is opened."""
    if not tokenizer.chat_template:
        raise ModelError("This model's tokenizer has no chat template. Use --style alpaca or none.")
    messages = [{"role": role, "content": words} for role, words in turns]
    made = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    return str(made)


# Two texts without a letter in common: where what is made of them begins to differ they begin.
_ONE, _OTHER = "x", "y"


def _before(tokenizer: PreTrainedTokenizerBase, style: Style, system: str) -> str:
    """What stands before the user's words."""
    return _shared(*(_framed(tokenizer, style, words, system) for words in (_ONE, _OTHER)))


def _shared(one: str, other: str) -> str:
    """How two texts begin, as far as they are the same."""
    pairs = zip(one, other, strict=False)
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: Question) -> list[int]:
    """The question's tokens. A chat template writes its own BOS; some tokenizers close a text."""
    if question.style == "chat":
        return list(tokenizer(question.text, add_special_tokens=False).input_ids)
    return without_closing(tokenizer, question.text)


def converse(
    tokenizer: PreTrainedTokenizerBase, style: Style, turns: Sequence[tuple[str, str]], last: str
) -> list[int]:
    """Tokens of a conversation: earlier (user, assistant) turns, then the user's `last` words."""
    if style == "chat":
        roles = ("user", "assistant")
        earlier = [spoken for turn in turns for spoken in zip(roles, turn, strict=True)]
        text = _rendered(tokenizer, [*earlier, ("user", last)], prompt=True)
        return prompt_ids(tokenizer, Question(text, style))
    said = [_framed(tokenizer, style, user) + assistant for user, assistant in turns]
    text = "\n\n".join([*said, _framed(tokenizer, style, last)])
    return prompt_ids(tokenizer, Question(text, style))


def default_style(tokenizer: PreTrainedTokenizerBase) -> Style:
    """The model's own chat template where it has one, else the bare text."""
    return "chat" if tokenizer.chat_template else "none"


def response_ids(
    tokenizer: PreTrainedTokenizerBase, question: Question, response: str, ends: Sequence[int]
) -> list[int]:
    """The tokens that answer `question` with `response`, the token that ends it last.

    They are what follows the question's own tokens in the tokens of both texts together, so that
    a model learns to go on exactly as it is asked to. Where a tokenizer would merge across the
    border, the response is tokenised by itself. `ends` are the tokens at which generation stops;
    a chat template may write one of them itself, otherwise it is the first.

    Raises InputProblems for a response that the chat template leaves out or writes over.
    """
    answer, closing = response, ""
    if question.style == "chat":
        answer, closing = _answered(tokenizer, question, response)
    text = answer + closing
    asked = prompt_ids(tokenizer, question)
    both = prompt_ids(tokenizer, Question(question.text + text, question.style))
    if both[: len(asked)] == asked:
        ids = both[len(asked) :]
    else:
        ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    written = list(tokenizer(closing, add_special_tokens=False).input_ids) if closing else []
    return _ended(ids, written, ends)


def _answered(
    tokenizer: PreTrainedTokenizerBase, question: Question, response: str
) -> tuple[str, str]:
    """What the chat template makes of a response, and what it writes after it.

    The response itself is not searched for: it may be a letter of the template. What the template
    writes around any response is what it makes of two that have nothing in common has in common.
    """

    def put(words: str) -> str:
        return _rendered(tokenizer, (*question.turns, ("assistant", words)))

    one, other, whole = put(_ONE), put(_OTHER), put(response)
    after = _shared(one[::-1], other[::-1])[::-1]
    end = len(whole) - len(after)
    # A template may open an answer with more than it asks with (Qwen 3: an empty thought), and may
    # ask with more than it keeps (DeepSeek-R1: the sign that opens one).
    openings = (question.text, _shared(one, other))
    starts = [len(text) for text in openings if whole.startswith(text) and len(text) <= end]
    if not starts or not whole.endswith(after):
        what = f"the model's chat template does not write {response[:30]!r} as it writes others"
        raise InputProblems([Problem("response", what, "Use --style alpaca, or change it.")])
    return whole[starts[0] : end], after.rstrip()


def _ended(ids: list[int], closing: list[int], ends: Sequence[int]) -> list[int]:
    """A response's tokens up to the first end token that the template wrote; else one is added."""
    start = len(ids) - len(closing)
    if closing and ids[start:] == closing:
        stops = [i for i, token in enumerate(closing) if token in ends]
        return ids[: start + stops[0] + 1] if stops else [*ids, ends[0]]
    return ids if ids and ids[-1] in ends else [*ids, ends[0]]
