"""What is measured of a contextual model: each word's two groups at every layer, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from lensbench.embeddings.geometry import CENTRED, PLAIN
from lensbench.embeddings.senses.parting import other_words, parting
from lensbench.embeddings.senses.sentences import Sentence, Split, splits
from lensbench.embeddings.senses.states import Placed, Reader, word_states
from lensbench.errors import Problem
from lensbench.models.text_encoder import TextEncoder, untrained_encoder
from lensbench.models.untrained import untrained
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.records.schema.text.embeddings import CONES, READ, SENSES

TRAINED, UNTRAINED = READ


@dataclass(frozen=True)
class Reading:
    """A model, and the sentences as it has them."""

    model: Reader
    sentences: Sequence[Sentence]
    items: Sequence[Placed]
    batch_tokens: int = 512
    seed: int = 0

    @cached_property
    def untrained(self) -> Reader:
        """The same with weights drawn anew: a second model in memory."""
        if isinstance(self.model, TextEncoder):
            return untrained_encoder(self.model, self.seed)
        return untrained(self.model, self.seed)


def read_senses(context: Reading, job: Job[str]) -> Part:
    """All words under one condition (`READ`). A sentence with NaN or Inf in it is left out."""
    model = context.model if job.item == TRAINED else context.untrained
    states = word_states(model, context.items, context.batch_tokens)
    sound = np.isfinite(states).all((0, 2))
    problems = [
        Problem(
            context.sentences[item.number].text, "its states hold NaN or Inf", "It is left out."
        )
        for item, fine in zip(context.items, sound, strict=True)
        if not fine
    ]
    numbers = [item.number for item, fine in zip(context.items, sound, strict=True) if fine]
    states = states[:, sound]
    words = [context.sentences[number].word for number in numbers]
    facts = {"model": context.model.name, "condition": job.item}
    own = splits(list(context.sentences), set(numbers))
    rows = [facts | row for row in sense_rows(states, numbers, words, own)]
    cones = [
        facts | {"layer": layer, "other_words_cosine": float(value)}
        for layer, value in enumerate(other_words(states, words))
        if np.isfinite(value)
    ]
    return Part(
        {
            SENSES.name: SENSES.of_rows(rows),
            CONES.name: CONES.of_rows(cones),
        },
        problems,
    )


def sense_rows(
    states: Float[np.ndarray, "layer sentence d_model"],
    numbers: Sequence[int],
    words: Sequence[str],
    own: Sequence[Split],
) -> list[dict[str, Any]]:
    """One row per split x layer x correction; `numbers`: the sentences that the states are of."""
    place = {number: row for row, number in enumerate(numbers)}
    every = np.array(words)
    mean = np.stack([states[:, every == word].mean(1) for word in dict.fromkeys(words)]).mean(0)
    n_layers, rows = len(states) - 1, []
    for split in own:
        a, b = ([place[number] for number in group] for group in (split.a, split.b))
        for name, taken in ((PLAIN, np.zeros_like(mean)), (CENTRED, mean)):
            found = parting(states - taken[:, None], a, b)
            rows += [
                {"word": split.word, "split": split.kind, "layer": layer}
                | {"depth": layer / n_layers, "correction": name}
                | {"within_cosine": within, "between_cosine": between}
                | {"separation": within - between, "accuracy": accuracy}
                | {"n_sentences": len(a) + len(b)}
                for layer, (within, between, accuracy) in enumerate(zip(*found, strict=True))
            ]
    return rows
