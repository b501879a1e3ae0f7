"""The memory that a verb takes at its peak, from shapes alone: weights, stream, temporaries.

A process takes what the program itself takes (Python, torch, transformers) and on top of that
either what loading takes for a moment, or the weights and what the verb holds beside them,
whichever is more. `lensbench doctor` says it of a usual batch, `lensbench plan` of the batches that
a run will have, and what cannot fit is refused by it. `tests/quantized/test_peaks.py` holds each
verb's sum to what processes of their own really take.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, get_args

from lensbench.checkpoints.placement import PROGRAM
from lensbench.checkpoints.ref import Bits
from lensbench.quantized.precision import Shape, Sizes

Verb = Literal["lens", "cache", "attention", "fit", "infer", "train"]
VERBS: tuple[Verb, ...] = get_args(Verb)
Import = Literal["bridge", "trainer", "embedder", "study"]

# What is imported beside Python, torch and transformers, with all that it imports itself:
# TransformerLens and a record's tables; PEFT and transformers' trainer; sentence-transformers and a
# database's driver; of a study its statistics, and what is left of the outlines it is planned of.
_IMPORTED: dict[Import, int] = {
    "bridge": 60 << 20,
    "trainer": 140 << 20,
    "embedder": 110 << 20,
    "study": 64 << 20,
}
_IMPORTS: dict[Verb, Import] = {
    "lens": "bridge",
    "cache": "bridge",
    "attention": "bridge",
    "fit": "bridge",
    "train": "trainer",
}
# What the program holds of a tokenizer, and each further entry of it: 350 MB of Gemma 3's, and as
# much again in the copy that TransformerLens gets.
_ENTRIES, _ENTRY = 49_152, 1200
_PACKED = 48 << 20  # bitsandbytes
_ROWS = 1024  # of the embedding at once
# Matrices of one block's heads at once: q, k, v, o with norms folded in; what it writes, and reads
# in three ways; what the block before it read; and three on their way.
_CIRCUITS = 4 + 4 + 3 + 3
_TILES = 32 << 20  # logits of a tile, twice, and the best of them
_PARTS, _FIT_READINGS = 6, 4  # of held-out texts, for intervals; lenses that read them


@dataclass(frozen=True)
class Batch:
    """What goes through the model at once: so many rows of so many tokens, and tokens to come.

    `n_read` are the positions that are read: None for the last of each row. `n_logits` are the rows
    of logits that the model makes, where those are more. `n_trained` are the upper blocks that
    gradients go through, None for all. `control`: of a fit and of heads, an untrained model stands
    beside the other.
    """

    rows: int = 16
    length: int = 32
    n_new: int = 0
    n_read: int | None = None
    n_logits: int = 0
    n_trained: int | None = None
    control: bool = True

    @classmethod
    def of_tokens(cls, n: int) -> Batch:
        """Where no text is known yet: as many tokens, in texts of a usual length."""
        return cls(max(n // cls.length, 1))

    @property
    def cells(self) -> int:
        """How many positions are read."""
        return self.rows if self.n_read is None else self.n_read

    @property
    def tokens(self) -> int:
        """Of all rows together."""
        return self.rows * self.length


@dataclass(frozen=True)
class Use:
    """What a model is loaded for."""

    verb: Verb = "lens"
    batch: Batch = Batch()

    def beside(self, sizes: Sizes, bits: Bits) -> int:
        """Bytes that are held beside the weights."""
        return beside_bytes(self.verb, sizes, bits, self.batch)


def peak_bytes(verb: Verb, sizes: Sizes, bits: Bits, batch: Batch | None = None) -> int:
    """Bytes that a process takes at its peak, on a CPU; within a tenth.

    Args:
        verb: the command, or what is called in Python.
        batch: of one pass; by default one of 512 tokens.
    """
    beside = beside_bytes(verb, sizes, bits, batch)
    return program_bytes(verb, sizes, bits) + with_weights(sizes, bits, beside)


def program_bytes(verb: Verb, sizes: Sizes, bits: Bits, more: Collection[Import] = ()) -> int:
    """What the program takes: Python, what the verb imports, and a large tokenizer.

    `more`: what else is imported by whoever calls several verbs in one process.
    """
    names = {*more} | ({_IMPORTS[verb]} if verb in _IMPORTS else set())
    imported = sum(_IMPORTED[name] for name in names)
    copies = 2 if "bridge" in names else 1
    entries = max(sizes.shape.d_vocab - _ENTRIES, 0) * copies
    return PROGRAM + imported + (_PACKED if bits in (8, 4) else 0) + entries * _ENTRY


def with_weights(sizes: Sizes, bits: Bits, beside: int) -> int:
    """The peak beyond the program, which a process has taken already when it asks.

    `beside` the weights, once they are loaded.
    """
    return max(sizes.loading_bytes(bits), sizes.weight_bytes(bits) + beside)


def needed_bytes(verb: Verb, sizes: Sizes, bits: Bits, batch: Batch | None = None) -> int:
    """The same of a verb and a batch."""
    return with_weights(sizes, bits, beside_bytes(verb, sizes, bits, batch))


def beside_bytes(verb: Verb, sizes: Sizes, bits: Bits, batch: Batch | None = None) -> int:
    """What a verb holds beside the weights at once."""
    return _BESIDE[verb](sizes, bits, batch or Batch())


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
    """All states of what is read, as they come and normed; the model's logits there.

    Rounded logits are there a second time, in float32.
    """
    shape = sizes.shape
    stream = 2 * (shape.n_blocks + 1) * batch.cells * shape.d_model * 4
    logits = max(batch.cells, batch.n_logits) * shape.d_vocab * (4 if bits == 32 else 6)
    return max(_pass(shape, bits, batch), logits) + stream + _TILES


def _attention(sizes: Sizes, bits: Bits, batch: Batch) -> int:
    """Patterns of a block at a time; of every head its circuits, which packed weights have none of.

    What every head writes, a matrix, is compared with what those of all later blocks read: three
    more, of a block at a time. Rows of the embedding are read in float64.
    """
    shape = sizes.shape
    heads, rows = 4 * shape.d_model * shape.d_heads, 3 * 8 * _ROWS * shape.d_model
    circuits = 0 if bits in (8, 4) else heads * (shape.n_blocks + _CIRCUITS) + rows
    control = _untrained(sizes, bits) if batch.control else 0
    return max(_pass(shape, bits, batch), circuits) + control + _TILES


def _untrained(sizes: Sizes, bits: Bits) -> int:
    """A second model, in 16 bits where the first one's are fewer."""
    return sizes.weight_bytes(32 if bits == 32 else 16)


def _fit(sizes: Sizes, bits: Bits, batch: Batch) -> int:
    """Sums of products in float64, 3 d^2 of a layer, and what is made of them for all layers.

    They are there once more as bytes on their way to the disk or from it, and while maps are made,
    as moments about the means with their directions. Then maps in float32 and, for intervals, mean
    distributions of every reading and layer. The control has its own, and its own weights; five
    times the sums are held then, freed ones with them. That five was set on smollm2-135m in float32
    and was measured on no other shape.
    """
    shape = sizes.shape
    sums = 3 * 8 * shape.n_blocks * shape.d_model**2
    maps = sums // 6
    means = _PARTS * _FIT_READINGS * (shape.n_blocks + 1) * shape.d_vocab * 4
    logits = batch.tokens * shape.d_vocab * (4 if bits == 32 else 6)
    stages = [3 * sums, 2 * sums + 4 * maps, 3 * maps + means]
    if batch.control:
        stages.append(_untrained(sizes, bits) + 3 * maps + 5 * sums)
    return max(stages) + max(_pass(shape, bits, batch), logits)


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
    n_blocks = shape.n_blocks if batch.n_trained is None else batch.n_trained
    kept = batch.tokens * n_blocks * numbers * item
    read = batch.tokens if batch.n_read is None else batch.n_read
    widened = 2 * sizes.n_other if bits in (8, 4) else 0
    return kept + widened + 3 * 4 * read * shape.d_vocab


_BESIDE: dict[Verb, Callable[[Sizes, Bits, Batch], int]] = {
    "lens": _lens,
    "cache": _lens,
    "attention": _attention,
    "fit": _fit,
    "infer": _infer,
    "train": _train,
}
