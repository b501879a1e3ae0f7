"""Text as rows of tokens: what is trained on, what is held out, and the tokenizer between."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lensbench.corpora.corpus import Corpus, Document
from lensbench.errors import InputProblems, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = "<|endoftext|>"  # after each document; the only token that is no text
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


def new_tokenizer(documents: Iterable[Document], vocabulary: int) -> PreTrainedTokenizerBase:
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
    core.train_from_iterator((document.text for document in documents), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END)


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """What it makes of texts, as a hash."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def packed(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    of: str,
    begin_twice: float = 0.0,
) -> Int[Tensor, "row context"]:
    """All documents one after the other, each with its end, cut into rows; the rest is left out.

    Attention in a row crosses the ends of documents, as is usual. `begin_twice`: the share of
    documents (by their hashes) whose beginning, at most half a row, stands before them once more.

    Raises InputProblems, with the numbers, for less than one row; `of`: what it is for.
    """
    texts = _ids(documents, tokenizer)
    ids = np.array([i for one in texts for i in _put(*one, context // 2, begin_twice)], np.int32)
    n_rows = len(ids) // context
    if not n_rows:
        what = f"the text to {of} has {len(ids)} tokens, less than one sequence of {context}"
        raise InputProblems([Problem("corpus", what, "Give more text, or a smaller --context.")])
    return torch.from_numpy(ids[: n_rows * context].reshape(n_rows, context))


def _ids(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Document, list[int], int]]:
    """Each document, its tokens and the token after it."""
    core = tokenizer.backend_tokenizer
    end = core.token_to_id(END)
    for start in range(0, len(documents), _AT_ONCE):
        some = documents[start : start + _AT_ONCE]
        encoded = core.encode_batch_fast([one.text for one in some], add_special_tokens=False)
        yield from ((one, own.ids, end) for one, own in zip(some, encoded, strict=True))


def _put(document: Document, ids: list[int], end: int, most: int, share: float) -> list[int]:
    # Not by the first digits of the hash: they order the documents, and say which are held out.
    twice = int(document.sha256[-8:], 16) < share * 2**32
    return [*ids[:most], end, *ids, end] if twice else [*ids, end]
