"""What a search will find is not known before it has been made: batches at both ends of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from lensbench.errors import Problem
from lensbench.quantized.generation.questions import Retrieved
from lensbench.quantized.rag.index import Hit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Ends(Generic[Batch]):
    """One batch with the shortest contexts that a search can give, and with the longest."""

    shortest: Batch
    longest: Batch


def contexts(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], n_questions: int, top_k: int
) -> tuple[Retrieved | None, Retrieved | None]:
    """What a search gives every question at least and at most, in tokens; `top_k` 0: nothing."""
    if not top_k:
        return None, None
    ids = tokenizer(list(documents), add_special_tokens=False).input_ids
    ordered = [documents[i] for i in sorted(range(len(ids)), key=lambda i: len(ids[i]))]
    ends = ordered[:top_k], ordered[-top_k:]
    shortest, longest = ([Hit("", text, 0.0, {}) for text in end] for end in ends)
    return Retrieved([shortest] * n_questions, {}), Retrieved([longest] * n_questions, {})


def at_both_ends(
    found: tuple[Retrieved | None, Retrieved | None],
    batches: Callable[[Retrieved | None], tuple[Sequence[Sequence[Batch]], list[Problem]]],
) -> tuple[list[list[Ends[Batch]]], list[Problem]]:
    """The batches of each stage of a record, and what does not fit with either."""
    least, unfit = batches(found[0])
    most, more = (least, unfit) if found[0] is None else batches(found[1])
    items = [
        [Ends(*both) for both in zip(*stages, strict=True)]
        for stages in zip(least, most, strict=True)
    ]
    return items, list(dict.fromkeys([*unfit, *more]))
