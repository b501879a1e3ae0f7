"""`embed`: vectors of texts and what their angles say, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

from lensbench.embeddings.encoder import load_sentence_encoder, n_tokens, vectors
from lensbench.embeddings.geometry import cosine_grid
from lensbench.embeddings.pairs import given_pairs
from lensbench.quantized.rag.embedding import DEFAULT_MODEL, Embedder


@dataclass(frozen=True)
class Embedded:
    """Texts with their vectors, as the library gives them."""

    model: str
    texts: list[str]
    vectors: Float[np.ndarray, "text dimension"] = field(repr=False)
    n_tokens: list[int]

    @property
    def cosines(self) -> pd.DataFrame:
        """Of every text with every other, -1..1; NaN where a vector is zero."""
        return pd.DataFrame(cosine_grid(self.vectors), self.texts, self.texts)

    @property
    def pairs(self) -> pd.DataFrame:
        """One row per pair of texts, the closest first: a, b, cosine."""
        grid = cosine_grid(self.vectors)
        rows = [
            {"a": self.texts[i], "b": self.texts[j], "cosine": grid[i, j]}
            for i, j in zip(*np.triu_indices(len(self.texts), 1), strict=True)
        ]
        found = pd.DataFrame(rows, columns=["a", "b", "cosine"])
        return found.sort_values("cosine", ascending=False, kind="stable", ignore_index=True)


def embed(
    texts: Sequence[str], model: str | Embedder = DEFAULT_MODEL, device: str | None = None
) -> Embedded:
    """The vectors of two texts or more by a sentence encoder, and their cosines.

    >>> lb.embed(["dog", "puppy", "car"]).pairs  # doctest: +SKIP

    Args:
        model: an alias, hub name or folder of sentence-transformers, or one that is loaded.

    Raises InputProblems with every text that is empty, too long for the encoder, or there twice;
    ModelError for a model that is no sentence encoder, MissingExtraError without the library.
    """
    listed = [texts] if isinstance(texts, str) else list(texts)
    given_pairs(listed)
    encoder = load_sentence_encoder(model, device) if isinstance(model, str) else model
    return Embedded(encoder.name, listed, vectors(encoder, listed), n_tokens(encoder, listed))
