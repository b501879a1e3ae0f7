"""What a comparison of tokenizers reads: from the command line or from an `analysis.toml`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from lensbench.errors import Problem
from lensbench.spec import ARGUMENT, Count, Positive, Spec, repeated


class TokensSpec(Spec):
    """What the tokenizers of some models make of texts, and of one text in 45 languages."""

    texts: Annotated[tuple[str, ...], Field(exclude=True), ARGUMENT] = ()
    """Texts to tokenise. Default: the shipped examples."""
    models: Annotated[
        tuple[str, ...],
        Field(min_length=1, exclude=True),
        Parameter("--models", consume_multiple=True),
    ]
    """One or more, each an alias, hub name or folder; only the tokenizer and config are read."""
    price: Positive | None = None
    """What a million tokens cost, in any currency, for the price of a page."""
    page_words: Count = 500
    """English words on a page."""

    def problems(self) -> list[Problem]:
        """Models that stand twice."""
        return repeated("models", self.models)
