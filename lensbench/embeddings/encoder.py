"""A sentence encoder: whole texts in, the library's own vectors out; none is cut without a word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lensbench.checkpoints.families import family_for_alias
from lensbench.errors import InputProblems, ModelError, Problem
from lensbench.quantized.rag.embedding import (
    DEFAULT_MODEL,
    Embedder,
    embedder_folder,
    load_embedder,
)

_INSTEAD = (
    f"Give a sentence-transformers model, such as {DEFAULT_MODEL}; the layers of any other are "
    "read with `lensbench embed --contextual`."
)


def load_sentence_encoder(name: str, device: str | None = None) -> Embedder:
    """A sentence-transformers model by name, hub name or folder.

    Raises ModelError for a model that is no sentence encoder (the library would put a mean over
    tokens behind any transformer, which nobody trained), and what `load_embedder` raises.
    """
    if family_for_alias(name) is not None:
        raise ModelError(f"{name} is no sentence encoder, but a causal language model. {_INSTEAD}")
    folder = embedder_folder(name)
    if not (folder / "modules.json").is_file():
        raise ModelError(
            f"{name} is no sentence encoder: it has no modules.json, which says how token vectors "
            f"become one. {_INSTEAD}"
        )
    return load_embedder(name, device)


def text_problem(encoder: Embedder, text: str, where: str) -> Problem | None:
    """Why a text has no vector of its own: it is empty, or longer than what the model reads."""
    if not text.strip():
        return Problem(where, "the text is empty", "Give it words.")
    n = encoder.count(text)
    if n > encoder.limit:
        what = f"it is {n:,} tokens long, and {encoder.name} reads {encoder.limit:,}"
        return Problem(where, what, "Shorten it: the library would cut it without a word.")
    return None


def n_tokens(encoder: Embedder, texts: Sequence[str]) -> list[int]:
    """Of each text, special ones left out."""
    return [encoder.count(text) for text in texts]


def vectors(encoder: Embedder, texts: Sequence[str]) -> Float[np.ndarray, "text dimension"]:
    """What the library gives of each text, float32; the same text is encoded once.

    Raises InputProblems with every text that is empty or too long, and those whose vector holds
    NaN or Inf.
    """
    found = (text_problem(encoder, text, f"text {n}") for n, text in enumerate(texts, start=1))
    if problems := [problem for problem in found if problem]:
        raise InputProblems(problems)
    once = list(dict.fromkeys(texts))
    made = np.asarray(encoder.model.encode(once, show_progress_bar=False), np.float32)
    if broken := [text for text, row in zip(once, made, strict=True) if not np.isfinite(row).all()]:
        what, remedy = "its vector holds NaN or Inf", "The model may be damaged: fetch it again."
        raise InputProblems([Problem(f"text {text[:40]!r}", what, remedy) for text in broken])
    place = {text: row for row, text in enumerate(once)}
    return made[[place[text] for text in texts]]
