"""Styles: how an instruction, with retrieved context, becomes the text that a model continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lensbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Style = Literal["none", "alpaca", "chat"]

# The frame that retrieved context stands in, before the instruction it belongs to.
CONTEXT_FRAME = "Use this context if it helps.\n\nContext:\n{context}\n\nQuestion:\n{instruction}"
ALPACA = "### Instruction:\n{instruction}\n\n### Response:\n"


@dataclass(frozen=True)
class Question:
    """What is put to a model. `context` is the span of characters of `text` that was retrieved."""

    text: str
    style: Style
    context: tuple[int, int] | None = None


def ask(
    tokenizer: PreTrainedTokenizerBase,
    style: Style,
    instruction: str,
    context: str | None = None,
    system: str = "",
) -> Question:
    """The instruction in the model's style, with the retrieved context inside it, if any.

    Only a chat template has a place for a `system` message; other styles leave it out.
    Raises ModelError for style "chat" with a tokenizer that has no chat template.
    """
    body = instruction
    if context is not None:
        body = CONTEXT_FRAME.format(context=context, instruction=instruction)
    text = _framed(tokenizer, style, body, system)
    if context is None:
        return Question(text, style)
    before = CONTEXT_FRAME.partition("{context}")[0]
    start = text.index(before + context) + len(before)
    return Question(text, style, (start, start + len(context)))


def _framed(tokenizer: PreTrainedTokenizerBase, style: Style, body: str, system: str = "") -> str:
    if style == "none":
        return body
    if style == "alpaca":
        return ALPACA.replace("{instruction}", body)
    if not tokenizer.chat_template:
        raise ModelError("This model's tokenizer has no chat template. Use --style alpaca or none.")
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": body})
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: Question) -> list[int]:
    """The question's tokens. A chat template writes its own BOS; some tokenizers add an EOS."""
    ids = list(tokenizer(question.text, add_special_tokens=question.style != "chat").input_ids)
    closed = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and question.style != "chat"
    return ids[:-1] if closed else ids


def converse(
    tokenizer: PreTrainedTokenizerBase, style: Style, turns: Sequence[tuple[str, str]], last: str
) -> list[int]:
    """Tokens of a conversation: earlier (user, assistant) turns, then the user's `last` words."""
    if style == "chat":
        roles = ("user", "assistant")
        messages = [
            {"role": role, "content": words}
            for turn in turns
            for role, words in zip(roles, turn, strict=True)
        ]
        messages.append({"role": "user", "content": last})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return prompt_ids(tokenizer, Question(str(text), style))
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
    """
    text = response + _closing(tokenizer, question, response)
    asked = prompt_ids(tokenizer, question)
    both = prompt_ids(tokenizer, Question(question.text + text, question.style))
    if both[: len(asked)] == asked:
        ids = both[len(asked) :]
    else:
        ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    return ids if ids and ids[-1] in ends else [*ids, ends[0]]


def _closing(tokenizer: PreTrainedTokenizerBase, question: Question, response: str) -> str:
    """What the chat template writes after an assistant's words, line ends left off."""
    if question.style != "chat":
        return ""
    turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": response}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    _, found, after = text.rpartition(response.strip())
    return after.strip() if found else ""
