"""Retrieved context, cut from its end so that prompt and response fit the model's window."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lensbench.quantized.style import Question, Style, ask, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_MERGED = 3  # cuts around the border that are looked at: lengths are monotone but for merges


@dataclass(frozen=True)
class Fitted:
    """A question as tokens, and how many of its context's tokens had to go."""

    question: Question
    token_ids: list[int]
    context_tokens_cut: int = 0


def fit(
    tokenizer: PreTrainedTokenizerBase,
    style: Style,
    instruction: str,
    context: str | None,
    room: int,
) -> Fitted:
    """The question with as much of `context` as `room` tokens hold, whole tokens from its start.

    Where not one token of it fits, the question goes without context. The instruction itself is
    never cut: the result may still exceed `room`, and it is for the caller to refuse it.
    """

    def put(kept: str | None, cut: int = 0) -> Fitted:
        question = ask(tokenizer, style, instruction, kept)
        return Fitted(question, prompt_ids(tokenizer, question), cut)

    if context is None:
        return put(None)
    whole = put(context)
    if len(whole.token_ids) <= room:
        return whole
    ends = _token_ends(tokenizer, context)
    kept = bisect_right(
        range(len(ends)), room, key=lambda i: len(put(context[: ends[i]]).token_ids)
    )
    return put(context[: ends[kept - 1]] if kept else None, len(ends) - kept)


def fit_to(
    tokenizer: PreTrainedTokenizerBase, style: Style, instruction: str, context: str, n_tokens: int
) -> Fitted:
    """The question with as much of `context` as makes it `n_tokens` long, and never longer.

    Whole tokens of the context are kept from its start. Where tokens merge across its end no cut
    may give that number; then it is the nearest below, if need be without context.
    """

    def put(end: int) -> Fitted:
        question = ask(tokenizer, style, instruction, context[:end] or None)
        return Fitted(question, prompt_ids(tokenizer, question))

    ends = [0, *_token_ends(tokenizer, context)]
    over = bisect_right(ends, n_tokens, key=lambda end: len(put(end).token_ids))
    near = [put(end) for end in ends[max(0, over - _MERGED) : over + _MERGED]]
    fitting = [one for one in (*near, put(0)) if len(one.token_ids) <= n_tokens]
    return max(fitting, key=lambda one: len(one.token_ids))


def _token_ends(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Where each token of `text` ends, in characters."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [end for _, end in encoded.offset_mapping]
