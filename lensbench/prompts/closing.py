"""What a tokenizer writes after every text: a model is asked to go on from before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def n_closing(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens close a text, whatever they are called.

    It is the end token in most tokenizers that have one; in a fine-tuned model that was given
    another end token, it may still be the earlier one.
    """
    bare = list(tokenizer("a", add_special_tokens=False).input_ids)
    whole = list(tokenizer("a").input_ids)
    starts = (i for i in range(len(whole)) if bare and whole[i : i + len(bare)] == bare)
    start = next(starts, None)
    return 0 if start is None else len(whole) - start - len(bare)


def without_closing(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text's tokens with all that the tokenizer puts before it, and nothing after."""
    ids = list(tokenizer(text).input_ids)
    return ids[: len(ids) - n_closing(tokenizer)]
