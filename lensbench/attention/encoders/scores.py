"""What the heads of a text encoder look at: sinks, neighbours, separators (Clark et al. 2019).

Each score is a mean over queries of how much a head gives to certain tokens. Neighbours are tokens
of the text alone: [CLS] and [SEP] are looked at as sinks, whatever stands beside them. Patterns
weighted by what they move are scored in the same way, their rows made to sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lensbench.attention.scores import Pattern, Scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_TOKENS = 4  # two of the text between the special ones, or there is no neighbour


@dataclass(frozen=True)
class Places:
    """Which of a text's tokens are special, and which separate.

    What stands for a word, unknown or masked, is none of the special ones.
    """

    special: Bool[Tensor, " pos"]
    stops: Bool[Tensor, " pos"]

    @property
    def framed(self) -> bool:
        """Whether the text begins and ends with a special token, as an encoder is trained."""
        return bool(self.special[0]) and bool(self.special[-1])

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> Places:
        """As the tokenizer has them."""
        of_words = {tokenizer.unk_token_id, tokenizer.mask_token_id}
        special = {*tokenizer.all_special_ids} - of_words
        names = tokenizer.convert_ids_to_tokens(list(token_ids))
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
