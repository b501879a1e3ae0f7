"""Words as the tokens that follow a prompt's text, under one tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lensbench.prompts.joint import Joint, between, joint_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Word:
    """An answer or category as the tokens that follow the prompt; the first one is scored.

    `split` is true where the tokenizer would draw its first characters into the prompt's last
    token ("is " and "Berlin"): the prompt stays as it is asked, and the word is tokenised alone.
    """

    text: str
    token_ids: tuple[int, ...]
    joint: Joint
    split: bool = False

    @property
    def id(self) -> int:
        """The scored token."""
        return self.token_ids[0]


@dataclass
class Unsayable(Exception):
    """A word whose first token says nothing of it, and what to do."""

    what: str
    remedy: str


class Following:
    """What follows a text: `ids` are the tokens that the model gets for a whole text.

    Of the tokenizer's tokens the model can say the first `d_vocab`; None: all of them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text: str,
        ids: Callable[[str], Ids],
        d_vocab: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._d_vocab = d_vocab
        self._text = text
        self._ids = ids

    @cached_property
    def start(self) -> Ids:
        """The tokens of the text itself."""
        return self._ids(self._text)

    def wants_space(self, answer: str) -> bool:
        """Whether the space before the answer is a token of its own, as before digits in many.

        Scored as the first token it would say nothing of the answer: it ends the prompt instead.
        """
        spaced = joint_of(self._text, answer) == "space" or answer[:1] == " " != answer[1:2]
        if not spaced or not answer.strip() or self._text[-1:].isspace():
            return False
        return self._space_is_apart(answer.removeprefix(" "))

    def word(self, text: str | None, spaced: bool = False) -> Word | None:
        """`text` as the tokens that follow; with `spaced` the prompt has taken its space.

        Raises Unsayable: no tokens, or a first token that is a lone space, unknown, or
        not the model's.
        """
        if text is None:
            return None
        said = text.removeprefix(" ") if spaced else text
        joint = joint_of(self._text, said)
        tokens, split = self._joined(between(joint) + said)
        if not tokens or not text.strip():
            raise Unsayable(f"'{text}' has no tokens of its own", "Give a word that can be said.")
        if tokens[:1] == self._alone(" "):
            what = f"the first token of '{text}' is a lone space, which says nothing of it"
            raise Unsayable(what, "Write one space between the prompt and it, not two.")
        if tokens[0] == self._tokenizer.unk_token_id:  # GPT-2 calls its end of text that
            what = f"the tokenizer has no token for the start of '{text}'"
            raise Unsayable(what, "Ask another model, or for another word.")
        if self._beyond(tokens[0]):
            what = f"the model has no logit for token {tokens[0]}, the start of '{text}'"
            raise Unsayable(what, "Ask another model, or for another word.")
        return Word(text, tokens, "space_token" if spaced else joint, split)

    def word_or_none(self, text: str | None) -> Word | None:
        """`word`, or None where its first token says nothing of it."""
        try:
            return self.word(text)
        except Unsayable:
            return None

    def other(self, answer: Word) -> Word | None:
        """The answer with the space that it has not, or without the one that it has."""
        bare = answer.text.lstrip()
        joint: Joint = "space" if answer.joint == "none" else "none"
        if self._text[-1:].isspace() or (joint == "space" and self._space_is_apart(bare)):
            return None
        tokens, split = self._joined(between(joint) + bare)
        sayable = bool(tokens) and not self._beyond(tokens[0])
        return Word(bare, tokens, joint, split) if sayable else None

    def _beyond(self, token: int) -> bool:
        """Whether the tokenizer has the token and the model has not."""
        return self._d_vocab is not None and token >= self._d_vocab

    def _space_is_apart(self, word: str) -> bool:
        space, whole = self._more(" ") or (), self._more(" " + word) or ()
        return len(space) == 1 and whole[:1] == space and len(whole) > 1

    def _joined(self, added: str) -> tuple[Ids, bool]:
        """The tokens of `added` after the text; by itself where it would change the text's own."""
        tokens = self._more(added)
        return (self._alone(added), True) if tokens is None else (tokens, False)

    def _more(self, added: str) -> Ids | None:
        """What the tokens of the whole have after those of the text; None if those changed."""
        whole = self._ids(self._text + added)
        return whole[len(self.start) :] if whole[: len(self.start)] == self.start else None

    def _alone(self, added: str) -> Ids:
        """The tokens of what is joined to nothing: after a line break, which joins no word."""
        before, whole = (
            tuple(self._tokenizer(text, add_special_tokens=False).input_ids)
            for text in ("\n", "\n" + added)
        )
        return whole[len(before) :] if whole[: len(before)] == before else ()
