"""Tokenizers compared as one call, and the result as an object that reads well in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensbench.errors import Collected, InputProblems, Problem
from lensbench.tokenisation.counts import fates, piece_rows, text_counts, with_ratios
from lensbench.tokenisation.gaps import gap_rows
from lensbench.tokenisation.texts import Text, example_texts, given_texts, parallel_texts
from lensbench.tokenisation.tokenizer import Piece, Tokenizer, open_tokenizers

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True, eq=False)
class TokensResult:
    """What some tokenizers make of some texts.

    `table`: one row per text x model; `pieces`: one per token. Columns are those of the tables
    `tokens` and `pieces` (records/schema/text/tokens.py), with ratios of the counts.
    """

    tokenizers: Sequence[Tokenizer]
    texts: Sequence[Text]
    table: pd.DataFrame
    pieces: pd.DataFrame
    contexts: Mapping[str, int | None]  # of each model, in tokens; None: no config.json says it

    def to_pandas(self) -> pd.DataFrame:
        """One row per text x model."""
        return self.table

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """Tokens of 45 languages and 24 scripts beside English, with 95 % intervals."""
        rows = [
            _counts(tokenizer, text, tokenizer.pieces(text.text))
            for tokenizer in self.tokenizers
            for text in parallel_texts()
        ]
        return pd.DataFrame(gap_rows(pd.DataFrame(rows)))

    def plot(self) -> Figure:
        """Each language's gap to English, a curve for each tokenizer, languages by script."""
        import plotly.express as px

        own = self.gaps[self.gaps["language"].notna()]
        above, below = own["gap_high"] - own["gap"], own["gap"] - own["gap_low"]
        return px.scatter(
            own.assign(above=above, below=below),
            x="language",
            y="gap",
            color="model",
            error_y="above",
            error_y_minus="below",
            hover_data=["script", "bytes_gap"],
            log_y=True,
            labels={"gap": "tokens, English = 1"},
        )

    def __repr__(self) -> str:
        names = ", ".join(f"{one.name} ({one.kind})" for one in self.tokenizers)
        shown = ["text_id", "model", "n_tokens", "tokens_per_word", "n_unknown", "n_lost"]
        table = self.table[shown].to_string(index=False, float_format="{:.2f}".format)
        return f"TokensResult({len(self.texts)} text(s), {names})\n{table}"


def _counts(tokenizer: Tokenizer, text: Text, pieces: Sequence[Piece]) -> dict[str, Any]:
    return text_counts(tokenizer, text, pieces, fates(text.text, pieces))


def tokens(
    texts: str | Sequence[str] = (), models: str | Sequence[str] = ("smollm2-135m",)
) -> TokensResult:
    """What the tokenizers of some models make of texts; no weights are read.

    Args:
        texts: one or more; the shipped examples by default.
        models: aliases, hub names that were fetched, or folders that hold a tokenizer.

    Raises:
        InputProblems: empty texts or what is no text; models that are unknown, not here, without a
            tokenizer, or given twice.
    """
    given = [texts] if isinstance(texts, str) else list(texts)
    names = [models] if isinstance(models, str) else list(models)
    if not names:
        raise InputProblems([Problem("models", "it is empty", "Give at least 1.")])
    read, tokenizers, facts = texts_and_tokenizers(given, names)
    counts: list[dict[str, Any]] = []
    pieces: list[dict[str, Any]] = []
    for text in read:
        for tokenizer in tokenizers:
            own = tokenizer.pieces(text.text)
            counts.append(_counts(tokenizer, text, own))
            pieces += piece_rows(tokenizer, text, own)
    table = with_ratios(pd.DataFrame(counts).astype({"n_words": "Float64"}))
    contexts = {one.name: own["n_ctx"] for one, own in zip(tokenizers, facts, strict=True)}
    return TokensResult(tokenizers, read, table, pd.DataFrame(pieces), contexts)


def texts_and_tokenizers(
    texts: Sequence[str], models: Sequence[str]
) -> tuple[list[Text], list[Tokenizer], list[dict[str, Any]]]:
    """A user's texts (of none the shipped examples), the tokenizers of some models and their facts.

    Raises InputProblems with all that is wrong with texts and with models.
    """
    found = Collected()
    with found:
        read = given_texts(texts) if texts else example_texts()
    with found:
        tokenizers, facts = open_tokenizers(models)
    found.raise_any()
    return read, tokenizers, facts
