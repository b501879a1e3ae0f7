"""Text as rows of tokens: what is trained on, what is held out, and the tokenizer between."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lensbench.corpora.corpus import Corpus, Document
from lensbench.errors import InputProblems, Problem
from lensbench.progress import Progress, Watch, counted, ignore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = "<|endoftext|>"  # after each document; the only token that is no text
SHORTEST = 4  # tokens of a passage that is repeated
_AT_ONCE = 1_000  # documents that are tokenised together


@dataclass(frozen=True)
class Documents:
    """Whole documents to train on, and others to validate on."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]


def parted(corpus: Corpus, held_out_share: float, share: float) -> Documents:
    """The first documents of a corpus, whose order is that of their hashes, are held out.

    So many as have `held_out_share` of the characters; of the others the first `share`.

    Raises InputProblems where one of the two holds no document.
    """
    ends = np.cumsum([len(document.text) for document in corpus.documents])
    n_held_out = int(np.searchsorted(ends, held_out_share * ends[-1])) + 1
    rest = corpus.documents[n_held_out:]
    if not rest:
        what = f"{corpus.name} has {len(corpus.documents)} documents, too few to hold any out"
        raise InputProblems([Problem("corpus", what, "Give more text, or more files of it.")])
    return Documents(rest[: math.ceil(share * len(rest))], corpus.documents[:n_held_out])


def new_tokenizer(
    documents: Sequence[Document], vocabulary: int, watch: Watch = ignore
) -> PreTrainedTokenizerBase:
    """A byte-level BPE (Radford et al. 2019) of at most so many tokens; it reads any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    now = Progress("learning the tokenizer", total=len(documents), unit="documents")
    read = counted(documents, now, watch)
    core.train_from_iterator((document.text for document in read), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END)


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """What it makes of texts, as a hash."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def packed(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    of: str,
    watch: Watch = ignore,
) -> Int[Tensor, "row context"]:
    """All documents one after the other, each with its end, cut into rows; the rest is left out.

    Attention in a row crosses the ends of documents, as is usual.

    Raises InputProblems, with the numbers, for less than one row; `of`: what it is for.
    """
    ids = np.array([i for own in _ids(documents, tokenizer, watch) for i in own], np.int32)
    n_rows = len(ids) // context
    if not n_rows:
        what = f"the text to {of} has {len(ids)} tokens, less than one sequence of {context}"
        raise InputProblems([Problem("corpus", what, "Give more text, or a smaller --context.")])
    return torch.from_numpy(ids[: n_rows * context].reshape(n_rows, context))


def with_passages(rows: Int[Tensor, "row context"], share: float) -> Int[Tensor, "more context"]:
    """The rows, and so many of one passage of them over and over that those are `share` of all.

    A passage has from `SHORTEST` tokens to a quarter of a row, so that it comes four times or more.
    What follows its tokens is then best told by where they stood before, as induction heads do.
    Lengths and places are drawn evenly, for the same rows the same.
    """
    n, context = round(len(rows) * share / (1 - share)), rows.shape[1]
    chance = np.random.default_rng(0)
    lengths = chance.integers(SHORTEST, context // 4, n, endpoint=True)
    starts = chance.integers(0, rows.numel() - lengths, endpoint=True)
    places = starts[:, None] + np.arange(context) % lengths[:, None]
    return torch.cat([rows, rows.flatten()[torch.from_numpy(places)]])


def _ids(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, watch: Watch
) -> Iterator[list[int]]:
    """Each document's tokens, and its end."""
    core = tokenizer.backend_tokenizer
    end = core.token_to_id(END)
    n = len(documents)
    for start in range(0, n, _AT_ONCE):
        watch(Progress("tokenising", start, n, "documents"))
        some = documents[start : start + _AT_ONCE]
        encoded = core.encode_batch_fast([one.text for one in some], add_special_tokens=False)
        yield from ([*own.ids, end] for own in encoded)
    watch(Progress("tokenising", n, n, "documents"))
