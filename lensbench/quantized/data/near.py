"""Texts that are the same but for a few characters, found without comparing each with each."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from lensbench.quantized.data.spec import NEAR

_GRAM = 5  # characters
_BLOCK = 1024  # texts whose candidates are in memory at once
_COMMON = 6  # rare pieces that two texts must share to be compared: more are fewer comparisons
_CANDIDATES = 1 << 15  # pairs compared at once


def normalise(text: str) -> str:
    """`text` without what does not change its meaning: case, spacing, the last full stop.

    Inner punctuation stays: "3 + 4" and "3 - 4" are different questions.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" .?!")


def pair_text(question: str, response: str) -> str:
    """Question and response as the one text by which pairs are compared."""
    return f"{normalise(question)} {normalise(response)}"


def near_pairs(texts: Sequence[str], threshold: float = NEAR) -> Iterator[tuple[int, int, float]]:
    """Every (i, j, similarity), i < j, with a Jaccard similarity of at least `threshold`.

    The similarity is that of the sets of 5-character pieces of the normalised texts, 0..1. The
    result is exact: two sets that are similar enough are of similar size and share one of their
    rarest pieces, so only those are compared (prefix and length filters of PPJoin: Xiao et al.
    2008, Bayardo et al. 2007). The order of the pairs is not defined.
    """
    pieces = _pieces([normalise(text) for text in texts])
    order = np.argsort(np.diff(pieces.indptr), kind="stable")  # small texts first
    pieces = pieces[order]
    sizes = np.diff(pieces.indptr)
    # Among a text's rarest pieces, enough to share `common` with every similar text that is larger,
    # or with every one that is smaller.
    overlap = _at_least(2 * threshold / (1 + threshold), sizes)
    common = np.minimum(_COMMON, overlap)
    with_larger = _rarest(pieces, sizes - overlap + common)
    with_smaller = _rarest(pieces, sizes - _at_least(threshold, sizes) + _COMMON)
    for start in range(0, len(texts), _BLOCK):
        stop = min(start + _BLOCK, len(texts))
        first = int(np.searchsorted(sizes, _at_least(threshold, sizes[start])))
        found = sparse.coo_array(with_smaller[start:stop] @ with_larger[first:stop].T)
        i, j = found.coords[1] + first, found.coords[0] + start
        candidate = (i < j) & (found.data >= common[i])
        for a, b, similarity in _verified(pieces, i[candidate], j[candidate]):
            if similarity >= threshold:
                i_text, j_text = sorted((int(order[a]), int(order[b])))
                yield i_text, j_text, similarity


def _at_least(share: float, sizes: np.ndarray) -> np.ndarray:
    """The least whole number that is `share` of each size; rounding errors do not raise it."""
    return np.ceil(share * sizes - 1e-9).astype(int)


def _verified(
    pieces: sparse.csr_array, i: np.ndarray, j: np.ndarray
) -> Iterator[tuple[int, int, float]]:
    """The similarity of each candidate pair, some at a time to bound memory."""
    sizes = np.diff(pieces.indptr)
    for at in range(0, len(i), _CANDIDATES):
        a, b = i[at : at + _CANDIDATES], j[at : at + _CANDIDATES]
        shared = pieces[a].multiply(pieces[b]).sum(axis=1)
        similarity = shared / (sizes[a] + sizes[b] - shared)
        yield from zip(a.tolist(), b.tolist(), similarity.tolist(), strict=True)


def _pieces(texts: Sequence[str]) -> sparse.csr_array:
    """Texts x pieces, 1 where a text has a piece; rare pieces first, and in order in each row."""
    number: defaultdict[str, int] = defaultdict(lambda: len(number))
    rows = [
        [number[piece] for piece in {text[i : i + _GRAM] for i in range(max(len(text) - 4, 1))}]
        for text in texts
    ]
    columns = np.array([column for row in rows for column in row], dtype=np.int64)
    order = np.argsort(np.bincount(columns, minlength=len(number)), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    starts = np.cumsum([0, *map(len, rows)])
    shape = (len(texts), len(number))
    pieces = sparse.csr_array((np.ones(len(columns), np.int32), rank[columns], starts), shape=shape)
    pieces.sort_indices()
    return pieces


def _rarest(pieces: sparse.csr_array, counts: np.ndarray) -> sparse.csr_array:
    """The first `counts` pieces of each row."""
    sizes = np.diff(pieces.indptr)
    counts = np.minimum(counts, sizes)
    place = np.arange(pieces.nnz) - np.repeat(pieces.indptr[:-1], sizes)
    kept = place < np.repeat(counts, sizes)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_array((pieces.data[kept], pieces.indices[kept], starts), shape=pieces.shape)
