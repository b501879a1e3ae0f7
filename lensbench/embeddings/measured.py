"""What is measured of a sentence encoder: pairs, their map, anisotropy, ratings; as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from lensbench.embeddings import geometry, maps
from lensbench.embeddings.encoder import n_tokens, text_problem, vectors
from lensbench.embeddings.geometry import Correction, corrections, cosine_grid, cosines
from lensbench.embeddings.pairs import Pair
from lensbench.embeddings.rated import RatedSet, rank_correlations
from lensbench.errors import InputProblems, Problem
from lensbench.prompts.sets import load_prompts
from lensbench.prompts.words import words_of
from lensbench.quantized.rag.embedding import Embedder
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.records.schema.text.embeddings import ANISOTROPY, GRID, MAP, PAIRS, RATED

WORDS, SENTENCES, PAIR = "words", "sentences", "pair"  # where a text is from
_LEAST = 6  # texts of a kind: three in each half of the anisotropy
_SET = "sentences"  # the shipped prompt set that corrections are made of

Vectors = Float[np.ndarray, "text dimension"]


@dataclass(frozen=True)
class Measuring:
    """An encoder, what it is asked about, and the shipped texts that corrections are made of."""

    encoder: Embedder
    pairs: Sequence[Pair]
    rated: Mapping[str, RatedSet]
    umap: bool = False
    seed: int = 0

    @property
    def items(self) -> list[str]:
        """The jobs, in order: the map, the anisotropy, and each set of ratings."""
        return ["pairs", "anisotropy", *self.rated]

    @cached_property
    def shipped(self) -> dict[str, tuple[list[str], Vectors]]:
        """The sentences that ship as prompts and the words in them, each once, with vectors.

        Those that the encoder reads whole; InputProblems where it reads next to none.
        """
        texts = [prompt.prompt for prompt in load_prompts(_SET).prompts]
        words = (text[start:end].lower() for text in texts for start, end in words_of(text))
        given = {WORDS: list(dict.fromkeys(words)), SENTENCES: texts}
        found = {name: [t for t in own if self._whole(t)] for name, own in given.items()}
        if few := [name for name, own in found.items() if len(own) < _LEAST]:
            what = f"it reads {self.encoder.limit} tokens, too few for shipped {' and '.join(few)}"
            raise InputProblems([Problem(self.encoder.name, what, "Take another encoder.")])
        return {name: (own, vectors(self.encoder, own)) for name, own in found.items()}

    def _whole(self, text: str) -> bool:
        return text_problem(self.encoder, text, "") is None

    @cached_property
    def corrections(self) -> dict[str, list[Correction]]:
        """Those that the shipped words have, and those of the sentences."""
        return {name: corrections(own) for name, (_, own) in self.shipped.items()}


def measure(context: Measuring, job: Job[str]) -> Part:
    """One of `Measuring.items`."""
    if job.item == "pairs":
        return _pairs(context)
    if job.item == "anisotropy":
        return Part({ANISOTROPY.name: ANISOTROPY.of_rows(_anisotropy(context))})
    return _rated(context, context.rated[job.item])


def readable(encoder: Embedder, pairs: Sequence[Pair]) -> tuple[list[Pair], list[Problem]]:
    """Pairs whose texts the encoder reads whole, and why others are left out."""
    found, problems = list[Pair](), list[Problem]()
    for pair in pairs:
        told = [text_problem(encoder, t, f"pair {pair.id}, text {n}") for n, t in _texts(pair)]
        wrong = [problem for problem in told if problem]
        problems += [Problem(p.where, p.what, p.remedy, pair.id) for p in wrong]
        found += [] if wrong else [pair]
    return found, problems


def pair_rows(
    encoder: Embedder,
    pairs: Sequence[Pair],
    corrected: Mapping[str, Sequence[Correction]],
) -> list[dict[str, Any]]:
    """Rows of the table `embedding_pairs`: words beside words, other texts beside sentences."""
    a, b = (vectors(encoder, [getattr(pair, side) for pair in pairs]) for side in "ab")
    tokens = [n_tokens(encoder, [pair.a, pair.b]) for pair in pairs]
    columns = {
        (kind, one.name): cosines(one.of(a), one.of(b))
        for kind, own in corrected.items()
        for one in own
    }
    rows = []
    for row, pair in enumerate(pairs):
        kind = WORDS if pair.of_words else SENTENCES
        found: dict[str, Any] = {"model": encoder.name, "pair_id": pair.id}
        found |= {"a": pair.a, "b": pair.b, "published": pair.published}
        for name in (geometry.PLAIN, geometry.CENTRED, geometry.TOP_REMOVED):
            column = "cosine" if name == geometry.PLAIN else f"{name}_cosine"
            found[column] = _known(columns[kind, name][row])
        rows.append(found | {"n_tokens_a": tokens[row][0], "n_tokens_b": tokens[row][1]})
    return rows


def _pairs(context: Measuring) -> Part:
    """Pairs, every text with every other, and all in the plane among the shipped ones."""
    encoder = context.encoder
    texts = list(dict.fromkeys(text for pair in context.pairs for text in (pair.a, pair.b)))
    own = vectors(encoder, texts)
    grid = cosine_grid(own)
    cells = [
        {"model": encoder.name, "a": a, "b": b, "cosine": _known(grid[i, j])}
        for i, a in enumerate(texts)
        for j, b in enumerate(texts)
    ]
    return Part(
        {
            PAIRS.name: PAIRS.of_rows(pair_rows(encoder, context.pairs, context.corrections)),
            GRID.name: GRID.of_rows(cells),
            MAP.name: MAP.of_rows(_map(context, texts, own)),
        }
    )


def _map(context: Measuring, texts: list[str], own: Vectors) -> list[dict[str, Any]]:
    parts = [(PAIR, texts, own), *((name, *held) for name, held in context.shipped.items())]
    every = np.concatenate([part[2] for part in parts])
    labels = [(origin, text) for origin, named, _ in parts for text in named]
    plane = maps.pca(every).places
    far = maps.umap(every, context.seed) if context.umap else np.full((len(every), 2), np.nan)
    norms = np.linalg.norm(every.astype(np.float64), axis=1)
    return [
        {"model": context.encoder.name, "text": text, "origin": origin, "norm": float(norms[row])}
        | {f"pca_{axis + 1}": float(plane[row, axis]) for axis in (0, 1)}
        | {f"umap_{axis + 1}": _known(far[row, axis]) for axis in (0, 1)}
        for row, (origin, text) in enumerate(labels)
    ]


def _anisotropy(context: Measuring) -> list[dict[str, Any]]:
    rows = []
    for name, (texts, own) in context.shipped.items():
        for one in context.corrections[name]:
            found = geometry.held_out_cosine(own, one.name)
            row = {"model": context.encoder.name, "texts": name, "correction": one.name}
            rows.append(row | _interval("mean_cosine", found) | {"n_texts": len(texts)})
    return rows


def _rated(context: Measuring, rated: RatedSet) -> Part:
    """How cosines are ordered beside what people said, under each correction."""
    encoder, words = context.encoder, rated.words
    told = [text_problem(encoder, word, f"{rated.name}, {word!r}") for word in words]
    problems = [problem for problem in told if problem]
    left = {word for word, problem in zip(words, told, strict=True) if problem}
    pairs = [pair for pair in rated.pairs if not left & {pair.a, pair.b}]
    a, b = (vectors(encoder, [getattr(pair, side) for pair in pairs]) for side in "ab")
    kept = replace(rated, pairs=pairs)
    made = context.corrections[WORDS]
    given = [cosines(one.of(a), one.of(b)) for one in made]
    ratings = np.array([pair.rating for pair in pairs])
    values, gains = rank_correlations(given, ratings, context.seed)
    rows = [
        {"model": encoder.name, "rated_set": rated.name, "correction": one.name}
        | _interval("spearman", value)
        | _interval("gain", gain)
        | {"n_pairs": len(pairs), "n_same": kept.n_same, "n_repeated": kept.n_repeated}
        for one, value, gain in zip(made, values, gains, strict=True)
    ]
    return Part({RATED.name: RATED.of_rows(rows)}, problems)


def _interval(name: str, found: geometry.Interval) -> dict[str, float | None]:
    return {
        name: _known(found.value),
        f"{name}_low": _known(found.low),
        f"{name}_high": _known(found.high),
    }


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _texts(pair: Pair) -> tuple[tuple[str, str], ...]:
    return (("a", pair.a), ("b", pair.b))
