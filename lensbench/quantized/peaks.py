"""The memory that a verb takes at its peak, from shapes alone: weights, stream, temporaries.

A process takes what the program itself takes (Python, torch, transformers) and on top of that
either what loading takes for a moment, or the weights and what the verb holds beside them,
whichever is more. `tests/quantized/test_peaks.py` holds each verb's sum to what processes of their
own really take. A fit is not among them: it took 3.4 GB where its sums of products and what it
reads come to 1.9, and nobody has found yet what else it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from lensbench.checkpoints.ref import Bits
from lensbench.quantized.precision import Shape, Sizes

Verb = Literal["lens", "cache", "attention", "infer", "train"]
VERBS: tuple[Verb, ...] = get_args(Verb)

PROGRAM = 550 << 20  # Python, torch and transformers, on a CPU
_BRIDGE = 60 << 20  # TransformerLens, and a record's tables
_PACKED = 48 << 20  # bitsandbytes
_TRAINER = 140 << 20  # PEFT, transformers' trainer and what they import
_ROWS = 4096  # of the embedding at once
_TILES = 32 << 20  # logits of a tile, twice, and the best of them


@dataclass(frozen=True)
class Batch:
    """What goes through the model at once: so many rows of so many tokens, and tokens to come.

    `n_read` are the positions that are read: None for the last of each row.
    """

    rows: int = 16
    length: int = 32
    n_new: int = 0
    n_read: int | None = None

    @property
    def cells(self) -> int:
        """How many positions are read."""
        return self.rows if self.n_read is None else self.n_read

    @property
    def tokens(self) -> int:
        """Of all rows together."""
        return self.rows * self.length


def peak_bytes(verb: Verb, sizes: Sizes, bits: Bits, batch: Batch | None = None) -> int:
    """Bytes that a process takes at its peak, on a CPU; within a tenth.

    Args:
        verb: the command, or what is called in Python.
        batch: of one pass; by default one of 512 tokens.
    """
    imported = {"infer": 0, "train": _TRAINER}.get(verb, _BRIDGE)
    packed = _PACKED if bits in (8, 4) else 0
    return PROGRAM + imported + packed + needed_bytes(verb, sizes, bits, batch)


def needed_bytes(verb: Verb, sizes: Sizes, bits: Bits, batch: Batch | None = None) -> int:
    """The same beyond the program, which a process has taken already when it asks."""
    beside = _BESIDE[verb](sizes, bits, batch or Batch())
    return max(sizes.loading_bytes(bits), sizes.weight_bytes(bits) + beside)


def _item(bits: Bits) -> int:
    """Bytes of a number of the stream."""
    return 4 if bits == 32 else 2


def _pass(shape: Shape, bits: Bits, batch: Batch) -> int:
    """The widest moment of a block: its MLP, or eager attention with its softmax in float32."""
    item = _item(bits)
    mlp = batch.tokens * (3 * shape.d_inner + 4 * shape.d_model) * item
    patterns = batch.rows * shape.n_heads * batch.length**2 * (8 + item)
    return max(mlp, patterns + 4 * batch.tokens * shape.d_model * item)


def _lens(sizes: Sizes, bits: Bits, batch: Batch) -> int:
    """All states of what is read, as they come and normed; the model's logits there."""
    shape = sizes.shape
    stream = 2 * (shape.n_blocks + 1) * batch.cells * shape.d_model * 4
    logits = batch.cells * shape.d_vocab * (4 if bits == 32 else 6)  # rounded ones with a copy
    return max(_pass(shape, bits, batch), logits) + stream + _TILES


def _attention(sizes: Sizes, bits: Bits, batch: Batch) -> int:
    """Patterns of a block at a time; of every head its circuits, which packed weights have none of.

    Four matrices of every head are compared with those of all later ones, and rows of the
    embedding are read in float64.
    """
    width, rows = sizes.shape.d_model, 3 * 8 * _ROWS * sizes.shape.d_model
    circuits = 0 if bits in (8, 4) else 16 * width**2 * (sizes.shape.n_blocks + 1) + rows
    return _pass(sizes.shape, bits, batch) + circuits + _TILES


def _infer(sizes: Sizes, bits: Bits, batch: Batch) -> int:
    """Keys and values, and some rows of logits in float32."""
    cached = sizes.cache_bytes(bits, batch.rows * (batch.length + batch.n_new))
    logits = 6 * 4 * batch.rows * sizes.shape.d_vocab
    return _pass(sizes.shape, bits, batch) + cached + logits


def _train(sizes: Sizes, bits: Bits, batch: Batch) -> int:
    """What each block keeps for its gradient, and logits of the response with what is made of them.

    Frozen linear layers keep no input, but LLM.int8 does, of every one. Beside packed weights all
    else is in float32, embedding and head too.
    """
    shape, item = sizes.shape, 2 if bits == 16 else 4
    inputs = shape.d_model + shape.d_inner if bits == 8 else 0
    numbers = 7 * shape.d_model + 3 * shape.d_inner + inputs
    kept = batch.tokens * shape.n_blocks * numbers * item
    read = batch.tokens if batch.n_read is None else batch.n_read
    widened = 2 * sizes.n_other if bits in (8, 4) else 0
    return kept + widened + 3 * 4 * read * shape.d_vocab


_BESIDE: dict[Verb, Callable[[Sizes, Bits, Batch], int]] = {
    "lens": _lens,
    "cache": _lens,
    "attention": _attention,
    "infer": _infer,
    "train": _train,
}
