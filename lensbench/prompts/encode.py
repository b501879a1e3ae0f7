"""A prompt as one tokenizer sees it: token ids, and the ids of answer and category, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from lensbench.errors import InputProblems, Problem
from lensbench.prompts.closing import n_closing
from lensbench.prompts.following import Following, Unsayable, Word
from lensbench.prompts.prompt import Prompt, Prompts, as_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Literal["plain", "chat"]
NOTHING = Problem("prompts", "there is nothing to read", "Give a prompt and a position of it.")


NO_ROW = "Leave it out: the tokenizer has tokens that the model was never given."


def without_row(token_ids: Sequence[int], d_vocab: int | None) -> str | None:
    """Which token the model's embedding of so many rows has none for, in words."""
    largest = max(token_ids, default=0)
    if d_vocab is None or largest < d_vocab:
        return None
    return f"token {largest} has no row in the model's embedding of {d_vocab:,}"


@dataclass(frozen=True)
class EncodedPrompt:
    """A Prompt under one tokenizer.

    `answer` follows `text` by the rule of prompts/joint.py. `answer_other` is the form not chosen,
    with or without the space; None where white space ends the prompt, or it has no tokens.
    Categories whose first token says nothing of them are None.
    `shared_with` names another answer of the set that starts with the same token.
    """

    prompt: Prompt
    text: str
    template: Template
    token_ids: tuple[int, ...]
    answer: Word | None = None
    answer_other: Word | None = None
    category: Word | None = None
    null_category: Word | None = None
    shared_with: str | None = None


class Encoder:
    """Encodes prompts with a tokenizer's own defaults (its BOS), or with its chat template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        n_ctx: int,
        template: Template = "plain",
        where: str = "prompts",
        d_vocab: int | None = None,
        closed: bool = False,
    ) -> None:
        """With `closed` a text keeps the special tokens that end it: nothing is to follow it."""
        if template not in get_args(Template):
            remedy = f"Choose from {', '.join(get_args(Template))}."
            raise InputProblems([Problem("template", f"there is no {template!r}", remedy)])
        if template == "chat" and not tokenizer.chat_template:
            what = "this model's tokenizer has no chat template"
            raise InputProblems([Problem(where, what, "Use --template plain")])
        self.tokenizer = tokenizer
        self.n_ctx = n_ctx
        self.template = template
        self.where = where
        self.d_vocab = d_vocab  # rows of the embedding, which a tokenizer may outgrow
        self._n_closing = 0 if closed else n_closing(tokenizer)

    def encode(self, prompt: Prompt, null_category: str | None = None) -> EncodedPrompt:
        """Token ids of the prompt, its answer and its category.

        Raises InputProblems: empty prompt, longer than the context, NUL bytes, an answer without
        tokens.
        """
        if problems := self._problems(prompt):
            raise InputProblems(problems)
        if prompt.token_ids is not None:
            prompt = replace(prompt, prompt=str(self.tokenizer.decode(prompt.token_ids)))
        text = self._text(prompt)
        after = self._after(prompt, text)
        spaced = prompt.answer is not None and after.wants_space(prompt.answer)
        if spaced and prompt.token_ids is not None:
            what = f"the space before '{prompt.answer}' is a token of its own"
            remedy = "End the ids with that token."
            raise InputProblems([self._problem(prompt, what, remedy)])
        if spaced:
            text += " "
            after = self._after(prompt, text)
        # A tokenizer may write the text of given ids otherwise: words follow the text.
        token_ids = prompt.token_ids or after.start
        if len(token_ids) > self.n_ctx:
            length = f"{len(token_ids):,} tokens, the model's context holds {self.n_ctx:,}"
            what = f"the prompt has {length}"
            raise InputProblems([self._problem(prompt, what, "Shorten it.")])
        if missing := without_row(token_ids, self.d_vocab):
            raise InputProblems([self._problem(prompt, missing, NO_ROW)])
        try:
            answer = after.word(prompt.answer, spaced)
        except Unsayable as error:
            raise InputProblems([self._problem(prompt, error.what, error.remedy)]) from error
        return EncodedPrompt(
            prompt,
            text,
            self.template,
            token_ids,
            answer=answer,
            answer_other=after.other(answer) if answer else None,
            category=after.word_or_none(prompt.category),
            null_category=after.word_or_none(null_category),
        )

    def _after(self, prompt: Prompt, text: str) -> Following:
        return Following(self.tokenizer, text, partial(self._ids, prompt), self.d_vocab)

    def _text(self, prompt: Prompt) -> str:
        """The prompt itself, or the start of a chat answer that begins with it."""
        if self.template == "plain":
            return prompt.prompt
        turns = [
            {"role": "user", "content": f"Complete this sentence: {prompt.prompt}"},
            {"role": "assistant", "content": prompt.prompt},
        ]
        return str(
            self.tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
        )

    def _ids(self, prompt: Prompt, text: str) -> tuple[int, ...]:
        # A chat template writes its own BOS, and token ids have theirs.
        plain = self.template == "plain" and prompt.token_ids is None
        ids = tuple(self.tokenizer(text, add_special_tokens=plain).input_ids)
        # Some tokenizers close a text; what comes next is asked before that.
        return ids[: len(ids) - self._n_closing] if plain else ids

    def _problems(self, prompt: Prompt) -> list[Problem]:
        found = []
        if prompt.token_ids is None:
            if not prompt.prompt.strip():
                found.append(("the prompt is empty", "Write a prompt or delete the row."))
        else:
            found += self._id_problems(prompt.token_ids)
        words = prompt.prompt + (prompt.answer or "") + (prompt.category or "")
        if "\0" in words:
            found.append(("there is a NUL byte in it", "Save the file as plain UTF-8 text."))
        if any("\ud800" <= character <= "\udfff" for character in words):
            found.append(("there is half a character (a lone surrogate) in it", "Write it whole."))
        return [self._problem(prompt, what, remedy) for what, remedy in found]

    def _id_problems(self, token_ids: tuple[int, ...]) -> list[tuple[str, str]]:
        found, size = [], len(self.tokenizer)
        if not token_ids:
            found.append(("there are no token ids", "Give at least one."))
        if self.template != "plain":
            remedy = "Leave the template out, or write the ids of all of it."
            found.append(("token ids go to the model as they are", remedy))
        if strange := [token for token in token_ids if not 0 <= token < size]:
            what = f"there is no token {strange[0]}"
            found.append((what, f"The tokenizer has 0 to {size - 1:,}."))
        return found

    def _problem(self, prompt: Prompt, what: str, remedy: str) -> Problem:
        row = f"row {prompt.row}, " if prompt.row else ""
        where = f"{self.where}, {row}id {prompt.id}"
        return Problem(where, what, remedy, prompt_id=prompt.id)


def encode_all(
    encoder: Encoder, prompts: Sequence[Prompt], of: Sequence[Prompt] | None = None
) -> tuple[list[EncodedPrompt], list[Problem]]:
    """Encode prompts. Those that cannot be encoded become problems and the rest goes on.

    `of` is the whole set when `prompts` are only some of it: a prompt's chance level, another
    category of the set, must not change when more of the set is asked.
    """
    null_of = null_categories(prompts if of is None else of)
    encoded, problems = [], []
    for prompt in prompts:
        try:
            encoded.append(encoder.encode(prompt, null_of.get(prompt.category or "")))
        except InputProblems as error:
            problems += error.problems
    return mark_shared(encoded), problems


def encode_ids(encoder: Encoder, prompts: Prompts) -> list[tuple[int, ...]]:
    """Token ids of prompts in any form that `as_prompts` takes, for looking at the model alone.

    Raises InputProblems with all that is wrong with any of them; none is skipped.
    """
    given = [replace(prompt, answer=None, category=None) for prompt in as_prompts(prompts)]
    encoded, problems = encode_all(encoder, given)
    if problems or not encoded:
        raise InputProblems(problems or [NOTHING])
    return [item.token_ids for item in encoded]


def null_categories(prompts: Sequence[Prompt]) -> dict[str, str]:
    """For each category word another one of the set, as the chance level it is compared with."""
    words = sorted({prompt.category for prompt in prompts if prompt.category})
    if len(words) < 2:
        return {}
    return dict(zip(words, words[1:] + words[:1], strict=True))


def mark_shared(encoded: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
    """Note on each prompt another answer of the set that starts with the same token, if any.

    Such answers cannot be told apart by their first token, which is the one that is scored.
    """
    answers: dict[int, set[str]] = {}
    for item in encoded:
        if item.answer:
            answers.setdefault(item.answer.id, set()).add(item.answer.text.strip())
    marked = []
    for item in encoded:
        others = sorted(answers[item.answer.id] - {item.answer.text.strip()}) if item.answer else []
        marked.append(replace(item, shared_with=others[0]) if others else item)
    return marked


class TokenText:
    """Token ids as the text they add, leading space included, whatever the tokenizer's kind.

    SentencePiece tokenizers drop the leading space of a token decoded alone, so each is decoded
    after an anchor and the anchor's text is taken off again. An id without any text, such as the
    unused ones at the end of many vocabularies, is written as `<id>`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._anchor = tokenizer("a", add_special_tokens=False).input_ids[-1:]
        self._skip = len(tokenizer.decode(self._anchor))
        self._text = lru_cache(maxsize=None)(self._decode)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process the texts are made anew."""
        return TokenText, (self._tokenizer,)

    def __call__(self, token_id: int) -> str:
        """The text of one token."""
        return self._text(token_id)

    def _decode(self, token_id: int) -> str:
        ids = [*self._anchor, token_id]
        text = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return str(text)[self._skip :] or f"<{token_id}>"
