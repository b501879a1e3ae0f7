"""The best head for a phenomenon, chosen on one half of the sentences and tested on the other.

Of many heads the best is good by luck as well. On the sentences that it was not chosen by, luck is
gone; so it is with what it is compared with: the best fixed offset ("the word before"), which needs
no model, and the best head of an untrained model, which has learnt nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from lensbench.stats.estimates import SENTENCE, Estimate, clustered_estimate, paired_difference
from lensbench.stats.halves import halves

Hits = Bool[np.ndarray, "question head"] | Float[np.ndarray, "question head"]


@dataclass(frozen=True)
class Chosen:
    """What did best on the first half: how it did there, and on the other half."""

    which: int  # column of the head, or offset in words
    on_first_half: float  # accuracy, 0..1: too high, for it was chosen by that
    accuracy: Estimate  # on the other half, over questions, with an interval over sentences
    right: Float[np.ndarray, " question"]  # 0 or 1, of the other half


@dataclass(frozen=True)
class HeldOut:
    """A phenomenon on the second half of its sentences. Differences are in accuracy."""

    head: Chosen
    offset: Chosen
    over_offset: Estimate
    untrained: Chosen | None  # its own best head, by the same choice
    over_untrained: Estimate | None
    above_distractor: Estimate  # share of questions with one where the right word gets more


def held_out(
    right: Hits,
    offsets: Int[np.ndarray, " question"],
    sentences: Sequence[object],
    above_distractor: Float[np.ndarray, "question head"],
    untrained: Hits | None = None,
    seed: int = 0,
) -> HeldOut | None:
    """The best head of `right` [question, head], against offset and untrained model.

    `sentences` names the sentence of each question; the seed decides which half each is of. None
    where there are fewer than `LEAST`.
    """
    split = halves(sentences, seed)
    if split is None:
        return None
    first, second = split
    where = pd.Series(np.asarray(sentences, dtype=object)[second])
    tried = np.array(sorted(set(offsets.tolist()), key=lambda offset: (abs(offset), offset)))
    head = _chosen(np.asarray(right, float), range(right.shape[1]), first, second, where)
    offset = _chosen((offsets[:, None] == tried).astype(float), tried, first, second, where)
    base = None
    if untrained is not None:
        base = _chosen(
            np.asarray(untrained, float), range(untrained.shape[1]), first, second, where
        )
    return HeldOut(
        head,
        offset,
        _difference(head, offset, where),
        base,
        None if base is None else _difference(head, base, where),
        _share(above_distractor[second, head.which], where, "no sentence has a distractor"),
    )


def _chosen(
    right: Float[np.ndarray, "question choice"],
    names: Sequence[int] | Int[np.ndarray, " choice"],
    first: Int[np.ndarray, " question"],
    second: Int[np.ndarray, " question"],
    where: pd.Series,
) -> Chosen:
    """The best on the first half; of several the first."""
    scores = right[first].mean(0)
    best = int(scores.argmax())
    own = right[second, best]
    return Chosen(int(names[best]), float(scores[best]), _share(own, where, "no question"), own)


def _share(values: Float[np.ndarray, " question"], where: pd.Series, nothing: str) -> Estimate:
    return clustered_estimate(values, where, "share", nothing, SENTENCE)


def _difference(own: Chosen, base: Chosen, where: pd.Series) -> Estimate:
    return paired_difference(pd.Series(own.right), pd.Series(base.right), where, "share", SENTENCE)
