"""What the heads of a text encoder look at: sinks, neighbours, separators (Clark et al. 2019).

Each score is a mean over queries of how much a head gives to certain tokens. Neighbours are tokens
of the text alone: [CLS] and [SEP] are looked at as sinks, whatever stands beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lensbench.attention.scores import Pattern, Scores
from lensbench.errors import InputProblems, Problem
from lensbench.models.text_encoder import TextEncoder
from lensbench.stats.estimates import Estimate, clustered_estimate

LEAST_TOKENS = 4  # two of the text between the special ones, or there is no neighbour
MEANINGS = {
    "cls": "attention to the first token of all, such as [CLS]",
    "sep": "attention to the last token of all, such as [SEP]",
    "current_token": "attention to the token itself",
    "previous_token": "attention to the token before",
    "next_token": "attention to the token after",
    "separator": "attention to the last token of all, full stops and commas",
    "entropy_share": "entropy, as a share of that of even attention",
}


@dataclass(frozen=True)
class Places:
    """Which of a text's tokens are special, and which separate."""

    special: Bool[Tensor, " pos"]
    stops: Bool[Tensor, " pos"]

    @classmethod
    def of(cls, encoder: TextEncoder, token_ids: Sequence[int]) -> Places:
        """As the tokenizer has them."""
        special = {*encoder.tokenizer.all_special_ids}
        names = encoder.tokenizer.convert_ids_to_tokens(list(token_ids))
        return cls(
            torch.tensor([token in special for token in token_ids]),
            torch.tensor([name in (".", ",") for name in names]),
        )


def encoder_scores(pattern: Pattern, places: Places) -> dict[str, Scores]:
    """Every score of every head, 0..1, by its name.

    The queries of sinks and neighbours are the tokens of the text, those of separators what is none
    itself, those of the entropy all tokens.
    """
    n = pattern.shape[-1]
    text, place = ~places.special, torch.arange(n)
    last = place == n - 1
    away = place[None, :] - place[:, None]  # of a key from its query
    inner = text[None, :]
    separators = places.stops | last
    entropy = torch.special.entr(pattern).sum(-1) / torch.tensor(float(n)).log()
    return {
        "cls": _given(pattern, (place == 0).expand(n, n), text),
        "sep": _given(pattern, last.expand(n, n), text),
        "current_token": _given(pattern, away == 0, text),
        "previous_token": _given(pattern, (away == -1) & inner, text),
        "next_token": _given(pattern, (away == 1) & inner, text),
        "separator": _given(pattern, separators.expand(n, n), text & ~separators),
        "entropy_share": entropy.mean(-1).cpu(),
    }


def _given(
    pattern: Pattern, keys: Bool[Tensor, "query key"], queries: Bool[Tensor, " query"]
) -> Float[Tensor, " head"]:
    """What queries that have such a key give to it, on average; NaN where none has."""
    asked = queries & keys.any(-1)
    given = (pattern * keys.to(pattern)).sum(-1)
    return given[:, asked.to(pattern.device)].mean(-1).cpu()


def score_texts(
    encoder: TextEncoder, texts: Sequence[str], batch_tokens: int = 512
) -> pd.DataFrame:
    """One row per text, block and head, numbered from 0, with a column per score.

    Raises InputProblems, with all of them, for texts that are empty, too long, or of fewer than two
    tokens of their own.
    """
    ids, problems = list[tuple[int, ...]](), list[Problem]()
    for number, text in enumerate(texts):
        try:
            ids.append(encoder.ids(text, f"text {number}"))
        except InputProblems as error:
            problems += error.problems
            continue
        if len(ids[-1]) < LEAST_TOKENS:
            what = "it has fewer than two tokens of its own, so no neighbours"
            problems.append(Problem(f"text {number}", what, "Give a longer one."))
    if problems:
        raise InputProblems(problems)
    rows, places = list[dict[str, float]](), [Places.of(encoder, one) for one in ids]

    def see(item: int, block: int, pattern: Pattern) -> None:
        found = encoder_scores(pattern, places[item])
        for head in range(len(pattern)):
            where = {"text": item, "block": block, "head": head}
            rows.append(where | {name: float(one[head]) for name, one in found.items()})

    encoder.watch_each(ids, see, batch_tokens)
    return pd.DataFrame(rows).sort_values(["text", "block", "head"], ignore_index=True)


def by_block(rows: pd.DataFrame) -> dict[str, list[Estimate]]:
    """Of each score and block the mean over heads, with an interval over texts."""
    means = rows.groupby(["block", "text"])[list(MEANINGS)].mean()
    blocks = sorted(rows["block"].unique())
    return {
        score: [clustered_estimate(means.loc[block, score].to_numpy()) for block in blocks]
        for score in MEANINGS
    }
