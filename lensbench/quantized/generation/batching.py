"""Batches: planned once, sized by the memory there is, halved when that was too hopeful."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle, takewhile
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch

from lensbench.checkpoints.devices import memory_available
from lensbench.checkpoints.stored.heap import release
from lensbench.errors import ModelError
from lensbench.quantized.precision import cached_numbers

if TYPE_CHECKING:
    from lensbench.quantized.loading.load import AdaptedModel

MAX_BATCH = 24  # beyond it, decoding on small machines gains little and waits long
_WINDOW = 4  # batches among which prompts change places: few, for their lengths to be alike
_SHARE = 0.5  # of the free memory; the rest is for what is not counted here
_LOGIT_COPIES = 6  # float32 rows of the vocabulary alive at once: scores, log-softmax, softmax ...
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")

Item = TypeVar("Item")
Result = TypeVar("Result")


def plan(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Prompts by number, those of similar length together. Depends on its arguments alone."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def rebatched(batches: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
    """The same prompts in batches of the same sizes, with other neighbours.

    Within windows of up to `_WINDOW` consecutive batches, each batch's prompts, in an order drawn
    with `seed`, are dealt round the window's batches like cards: of a batch, no more stay together
    than there have to. Prompts of similar length stay close, so widths change as little as dealing
    allows. The order within a batch is by input number, as nothing depends on it.
    """
    draw = np.random.default_rng(seed)
    windows = [list(batches[i : i + _WINDOW]) for i in range(0, len(batches), _WINDOW)]
    if len(windows) > 1 and len(windows[-1]) == 1:
        alone = windows.pop()
        windows[-1] += alone
    return [batch for window in windows for batch in _dealt(window, draw)]


def _dealt(window: Sequence[Sequence[int]], draw: np.random.Generator) -> list[list[int]]:
    dealt: list[list[int]] = [[] for _ in window]
    places = cycle(range(len(window)))
    for batch in window:
        for item in draw.permutation(batch):
            dealt[next(i for i in places if len(dealt[i]) < len(window[i]))].append(int(item))
    return [sorted(batch) for batch in dealt]


def default_batch_size(model: AdaptedModel, n_prompt_tokens: int, max_new_tokens: int) -> int:
    """How many prompts of this length fit into half of the free memory together, 1..MAX_BATCH."""
    needed = row_bytes(model, n_prompt_tokens, max_new_tokens)
    free = memory_available(str(model.device))
    return max(1, min(MAX_BATCH, int(_SHARE * free / needed)))


def row_bytes(model: AdaptedModel, n_prompt_tokens: int, max_new_tokens: int) -> int:
    """Bytes that one row takes at most: its key/value cache, its widest activations, its logits."""
    config, item_bytes = model.base.config, model.base.dtype.itemsize
    inner = getattr(config.get_text_config(decoder=True), "intermediate_size", None)
    inner = inner if isinstance(inner, int) else 4 * model.d_model
    cache = cached_numbers(config) * item_bytes * (n_prompt_tokens + max_new_tokens)
    activations = (3 * inner + 4 * model.d_model) * item_bytes * n_prompt_tokens
    return int(cache + activations + _LOGIT_COPIES * 4 * model.d_vocab)


@dataclass
class Pieces(Generic[Item, Result]):
    """What became of a batch: the pieces that fitted, the items that do not fit even alone."""

    done: list[tuple[Sequence[Item], Result]] = field(default_factory=list)
    too_big: list[Item] = field(default_factory=list)
    limit: int = 0


def apart(model: AdaptedModel, lengths: Sequence[tuple[int, int]]) -> list[int]:
    """For rows of (prompt tokens, tokens that follow), numbers that differ where rows must part.

    Rows that stay below the model's `rope_switch` may be together, and so may those that begin
    beyond it; one that passes it on its way is alone, or its neighbours would pass it too.
    """
    switch = model.rope_switch
    if switch is None:
        return [0] * len(lengths)
    below, beyond, alone = 0, 1, count(2)
    return [
        beyond if start > switch else below if start + more <= switch else next(alone)
        for start, more in lengths
    ]


def in_pieces(
    items: Sequence[Item],
    limit: int,
    work: Callable[[Sequence[Item]], Result],
    kinds: Sequence[int] | None = None,
) -> Pieces[Item, Result]:
    """`work` on at most `limit` items at a time, half as many from where memory runs out on.

    Neighbours of different `kinds` are never together. The limit that was found is in the result,
    for the batches to come.
    """
    pieces: Pieces[Item, Result] = Pieces(limit=limit)
    left = list(kinds) if kinds is not None else [0] * len(items)
    while items:
        together = len(list(takewhile(left[0].__eq__, left[: pieces.limit])))
        piece, memory_ran_out = items[:together], False
        try:
            pieces.done.append((piece, work(piece)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            memory_ran_out = True
        if memory_ran_out:  # outside the handler: the error held on to the tensors
            release()
            pieces.limit = max(1, len(piece) // 2)
            if len(piece) > 1:
                continue
            pieces.too_big += piece
        items, left = items[len(piece) :], left[len(piece) :]
    return pieces


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an accelerator's or the CPU's allocator said that there is no more memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _OUT_OF_MEMORY)


@contextmanager
def out_of_memory_as(said: Callable[[Exception], str]) -> Iterator[None]:
    """Raise ModelError, worded by `said`, where an allocator has no more memory inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(said(error)) from error
