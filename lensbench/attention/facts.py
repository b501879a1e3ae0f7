"""What a score may know of a prompt besides the pattern: its tokens, and what each may look at."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lensbench.prompts.encode import TokenText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENDS = ".!?…。！？"


@dataclass(frozen=True)
class Facts:
    """A prompt's tokens: their ids, of which kinds they are, and what each may look at."""

    ids: Int[Tensor, " pos"]
    kinds: Mapping[str, Bool[Tensor, " pos"]]  # by the names in `KINDS`
    allowed: Bool[Tensor, "query key"]

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.ids)


def looking_back(n: int, window: int | None = None) -> Bool[Tensor, "query key"]:
    """What each of n tokens may look at: itself and those before, in a window so many in all."""
    allowed = torch.ones(n, n, dtype=torch.bool).tril()
    return allowed if window is None else allowed.triu(1 - window)


# Of a token's text, without white space around it.
KINDS: dict[str, Callable[[str], bool]] = {
    "punctuation": lambda text: all(unicodedata.category(c).startswith("P") for c in text),
    "capital": lambda text: text[0].isupper(),
    "digit": lambda text: any(c.isdigit() for c in text),
    "separator": lambda text: all(c in _ENDS for c in text),
}


class TokenKinds:
    """Of which kinds the tokens of a tokenizer are.

    Separators are ends of sentences, line breaks and the tokenizer's special tokens; a special
    token is nothing else.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._text = TokenText(tokenizer)
        self._special = frozenset(tokenizer.all_special_ids)
        self._of = lru_cache(maxsize=None)(self._kinds)

    def __call__(self, token_ids: Sequence[int]) -> dict[str, Bool[Tensor, " pos"]]:
        """Which tokens are of each kind."""
        each = [self._of(token) for token in token_ids]
        return {kind: torch.tensor([kind in found for found in each]) for kind in KINDS}

    def _kinds(self, token_id: int) -> frozenset[str]:
        whole = self._text(token_id)
        text = whole.strip()
        if token_id in self._special or (not text and "\n" in whole):
            return frozenset({"separator"})
        return frozenset(kind for kind, is_of in KINDS.items() if text and is_of(text))
