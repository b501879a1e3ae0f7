"""What a model loses of the words that belong together without the head that finds them best.

A phenomenon is scored by where a head looks, and that ablating it cannot change. What can change is
what the model says: of the later word of a pair, before which it has read the earlier one, and of
the text behind both. At the later word itself, where the head looks back, the word has been said:
what the head found there can only help with what follows.

The head was chosen on one half of the sentences, by where it looks; what is lost is measured on the
other half, beside what is lost without each other head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float

from lensbench.attention.causal.ablation import NO_ANSWER, passes
from lensbench.attention.causal.tables import Ablator
from lensbench.attention.gate import not_finite
from lensbench.attention.phenomena.asking import TRAINED, Asked
from lensbench.errors import Problem
from lensbench.records.parts import Part
from lensbench.records.schema.phenomena import PHENOMENON_ABLATION, PREDICTED, WORD_LOSSES
from lensbench.stats.estimates import SENTENCE, Estimate, clustered_estimate
from lensbench.stats.halves import halves

_QUESTION = ["prompt_id", "query", "offset"]


@dataclass(frozen=True)
class Losing:
    """A job: sentences, without every head in turn."""

    asked: tuple[Asked, ...]


def word_losses(ablator: Ablator, asked: Sequence[Asked]) -> Part:
    """The rows of the table `word_losses` of some sentences; what gives NaN or Inf has none."""
    ids = [one.token_ids for one in asked]
    nats = [np.empty((1 + len(ablator.heads), len(own) - 1)) for own in ids]  # the first: clean
    groups, ends = [[head] for head in ablator.heads], [NO_ANSWER] * len(ids)
    model, means = ablator.model, ablator.means
    for items, own, found in passes(model, ids, groups, ends, ablator.batch_tokens, means):
        rows = [0] if own is None else [1 + number for number in own]
        for place, item in enumerate(items):
            nats[item][rows] = found[:, place, : nats[item].shape[1]]
    problems, made = list[Problem](), list[dict[str, Any]]()
    for one, each in zip(asked, nats, strict=True):
        if np.isfinite(each).all():
            made += _rows(model.name, one, (each[1:] - each[0]) / np.log(2))
        else:
            problems.append(not_finite("sentences, ablation", one.prompt_id))
    return Part({WORD_LOSSES.name: WORD_LOSSES.of_rows(made)}, problems)


def _rows(model: str, one: Asked, bits: Float[np.ndarray, "head token"]) -> list[dict[str, Any]]:
    """Of each question; `bits` by which each token but the first is less likely."""
    rows = []
    for question, send in zip(one.questions, one.sentence.send, strict=True):
        word = send.nonzero()[:, 0].numpy()  # the tokens of the later word
        behind = bits[:, word.max() :]
        lost = {"word": bits[:, word - 1].sum(-1)}
        if behind.shape[1]:
            lost["rest"] = behind.mean(-1)
        for predicted, change in lost.items():
            rows.append(
                {
                    "model": model,
                    "prompt_id": one.prompt_id,
                    "phenomenon": question.phenomenon,
                    "direction": question.direction,
                    "query": question.query,
                    "offset": question.offset,
                    "predicted": predicted,
                    "change_bits": change,
                }
            )
    return rows


def phenomenon_ablation_table(
    answers: pd.DataFrame,
    phenomena: pa.Table,
    losses: pd.DataFrame,
    places: Sequence[tuple[int, int]],
    seed: int,
) -> pa.Table:
    """One row per row of `phenomena` and kind of text predicted: its best head, and the others.

    Args:
        answers: rows of that table, in the order that `phenomena` was made of.
        losses: rows of the table `word_losses`.
        places: block and head of each number of a list.
    """
    rows = []
    trained = answers[answers["who"] == TRAINED]
    for best in phenomena.to_pylist():
        key = ["weighting", "phenomenon", "direction"]
        own = trained[(trained[key] == [best[name] for name in key]).all(axis=1)]
        split = halves(own["prompt_id"].tolist(), seed)
        for predicted in PREDICTED:
            where = {name: best[name] for name in ("model", *key, "block", "head")}
            where |= {"predicted": predicted, "n_questions": 0, "n_sentences": 0}
            if split is None or best["block"] is None:
                rows.append(where | {"reason": best["reason"]})
                continue
            asked = losses[(losses[key[1:]] == [best[name] for name in key[1:]]).all(axis=1)]
            asked = asked[asked["predicted"] == predicted].drop_duplicates(_QUESTION)
            held = own.iloc[split[1]][_QUESTION].drop_duplicates().merge(asked, on=_QUESTION)
            rows.append(where | _row(held, places, (best["block"], best["head"])))
    return PHENOMENON_ABLATION.of_rows(rows)


def _row(
    held: pd.DataFrame, places: Sequence[tuple[int, int]], best: tuple[int, int]
) -> dict[str, Any]:
    """What is lost on the other half without a head, and without others."""
    if held.empty:
        return {"reason": "no such text in the other half of the sentences on which it is ablated"}
    bits = np.stack([np.asarray(one, float) for one in held["change_bits"]])  # [question, head]
    number, sentences = places.index(best), held["prompt_id"]
    beside = [i for i, place in enumerate(places) if place[0] == best[0] and place != best]
    mean, others = bits.mean(0), np.delete(bits.mean(0), number)
    own = bits[:, number]
    found = _mean(own, sentences).columns("change_bits")
    if beside:
        other = bits[:, beside].mean(1)
        found |= _mean(other, sentences).columns("others_bits")
        found |= _mean(own - other, sentences).columns("above_others_bits")
    share = float((others < mean[number]).mean()) if len(others) else None
    counts = {"n_questions": len(held), "n_sentences": sentences.nunique()}
    return found | {"share_below": share} | counts


def _mean(values: Float[np.ndarray, " question"], sentences: pd.Series) -> Estimate:
    return clustered_estimate(values, sentences, "mean", "no question", SENTENCE)
