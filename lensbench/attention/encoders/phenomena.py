"""Which heads of a text encoder find the word that belongs to another, asked in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from lensbench.attention.encoders.scores import score_texts
from lensbench.attention.phenomena.asking import TRAINED, UNTRAINED
from lensbench.attention.phenomena.questions import (
    BOTH_WAYS,
    Question,
    answers,
    compiled,
    questions,
)
from lensbench.attention.phenomena.tables import depths_table, phenomena_table
from lensbench.attention.scores import Pattern
from lensbench.errors import InputProblems, Problem
from lensbench.models.text_encoder import TextEncoder, untrained_encoder
from lensbench.prompts.gold import gold_pairs
from lensbench.prompts.sets import PromptSet
from lensbench.prompts.words import Alignment, align


@dataclass(frozen=True)
class _Asked:
    prompt_id: str
    text: str
    token_ids: tuple[int, ...]
    words: Alignment
    questions: list[Question]


@dataclass(frozen=True)
class EncoderPhenomena:
    """Tables as in a record (records/schema/phenomena.py), of the plain pattern."""

    phenomena: pa.Table
    depths: pa.Table
    problems: list[Problem]


def encoder_phenomena(
    encoder: TextEncoder, sentences: PromptSet, seed: int = 0, batch_tokens: int = 512
) -> EncoderPhenomena:
    """The best heads, and the claims about depth, on the gold pairs of sentences.

    The same architecture with weights drawn anew is asked the same. Raises InputProblems where no
    sentence says which of its words belong together.
    """
    asked, problems = _asked_of(encoder, sentences)
    if not asked:
        what = "no sentence says which of its words belong together"
        raise InputProblems(problems or [Problem(sentences.name, what, "Add a column 'pairs'.")])
    rows = [
        row
        for who, model in ((TRAINED, encoder), (UNTRAINED, untrained_encoder(encoder, seed)))
        for row in _answered(model, who, asked, batch_tokens)
    ]
    frame = pd.DataFrame(rows)
    heads = score_texts(encoder, [one.text for one in asked], batch_tokens)
    heads = heads.assign(condition="text", weighting="plain").rename(columns={"text": "prompt_id"})
    places = [(b, h) for b in range(encoder.n_layers) for h in range(encoder.n_heads)]
    return EncoderPhenomena(
        phenomena_table(frame, places, encoder.name, seed),
        depths_table(frame, heads, places, encoder.name, seed),
        problems,
    )


def _asked_of(encoder: TextEncoder, sentences: PromptSet) -> tuple[list[_Asked], list[Problem]]:
    """Sentences that there is something to ask about; what is wrong with others."""
    found, problems = list[_Asked](), list(sentences.problems)
    for prompt in sentences.prompts:
        where = f"{sentences.name}, id {prompt.id}"
        pairs, wrong = gold_pairs(prompt, sentences.name)
        problems += wrong
        if not pairs:
            continue
        try:
            ids = encoder.ids(prompt.prompt, where)
        except InputProblems as error:
            problems += error.problems
            continue
        words = align(encoder.tokenizer, prompt.prompt, ids, where)
        problems += words.problems
        if own := questions(pairs, words, BOTH_WAYS):
            found.append(_Asked(prompt.id, prompt.prompt, ids, words, own))
    return found, problems


def _answered(
    encoder: TextEncoder, who: str, asked: Sequence[_Asked], batch_tokens: int
) -> list[dict[str, object]]:
    """One row per question, in the order of the sentences."""
    put = [compiled(one.questions, one.words, len(one.token_ids)) for one in asked]
    right: dict[int, list[np.ndarray]] = {}
    above: dict[int, list[np.ndarray]] = {}

    def see(item: int, block: int, pattern: Pattern) -> None:
        found = answers(pattern, put[item])
        right.setdefault(item, []).append(found.right.cpu().numpy())
        above.setdefault(item, []).append(found.above_distractor.cpu().numpy())

    encoder.watch_each([one.token_ids for one in asked], see, batch_tokens)
    rows = []
    for item, one in enumerate(asked):
        said, beside = (np.concatenate(part[item], axis=1) for part in (right, above))
        for number, question in enumerate(one.questions):
            row: dict[str, object] = {"who": who, "prompt_id": one.prompt_id, "weighting": "plain"}
            row |= {"phenomenon": question.phenomenon, "direction": question.direction}
            row |= {"query": question.query, "offset": question.offset, "right": said[number]}
            none = bool(np.isnan(beside[number]).all())
            rows.append(row | {"above_distractor": None if none else beside[number] > 0})
    return rows
