"""One text in many languages: how many more tokens it takes than in English, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lensbench.records.schema.text.tokens import FATES
from lensbench.stats.estimates import EXAMPLES, Estimate, clustered_estimate, summed_estimate
from lensbench.stats.intervals import ratio
from lensbench.tokenisation.size import attention_flops
from lensbench.tokenisation.texts import REFERENCE

_NONE = Estimate(None, None, None, 0, 0, "no spaces between words")


def gap_rows(counts: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """For each model the gap of every language and of every script, from counts of articles.

    A gap is a ratio of sums over articles: what the whole text takes, beside English. That of a
    script is the mean over its languages here, English left out. Intervals are over articles
    (studentised bootstrap): of other texts in these languages, not of other languages.
    """
    for model, own in counts.groupby("model", sort=False):
        reference = own[own["language"] == REFERENCE].set_index("article")
        for language, part in own.groupby("language", sort=False):
            yield {"model": model, "language": language} | _gap(part, reference)
        others = own[own["language"] != REFERENCE]
        for _, part in others.groupby("script", sort=False):
            yield {"model": model, "language": None} | _gap(part, reference)


def _gap(part: pd.DataFrame, reference: pd.DataFrame) -> dict[str, Any]:
    n_languages = int(part["language"].nunique())
    sums = part.groupby("article").sum(numeric_only=True)
    means = sums / n_languages
    base = reference.loc[means.index]
    tokens = _ratio(means["n_tokens"], base["n_tokens"])
    words = part["n_words"].isna().any()
    fertility = _NONE if words else _ratio(sums["n_tokens"], sums["n_words"])
    whole = sums.sum()
    return {
        "script": part["script"].iloc[0],
        "n_languages": n_languages,
        **tokens.columns("gap"),
        "bytes_gap": float(means["n_bytes"].sum() / base["n_bytes"].sum()),
        **fertility.columns("tokens_per_word"),
        "characters_per_token": float(whole["n_characters"] / whole["n_tokens"]),
        "bytes_per_token": float(whole["n_bytes"] / whole["n_tokens"]),
        "unknown_share": float(whole["n_unknown"] / whole["n_tokens"]),
        "unread_share": float(whole["n_unread"] / whole["n_solid"]),
        "byte_share": float(whole["n_byte_tokens"] / whole["n_tokens"]),
        "lost_share": float(whole["n_lost"] / whole["n_characters"]),
        "n_articles": len(means),
    }


def _ratio(above: pd.Series, below: pd.Series) -> Estimate:
    return summed_estimate(np.column_stack([above, below]), ratio)


def fate_rows(counts: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """For each model and script what becomes of its characters, over all languages written in it.

    `counts`: rows of `script_counts`, of the parallel text. Intervals are over articles, which
    are drawn as a whole (Korn & Graubard 1998).
    """
    for (model, script), own in counts.groupby(["model", "script"], sort=False):
        sums = own.groupby("article").sum(numeric_only=True)
        n = int(sums["n_characters"].sum())
        row: dict[str, Any] = {"model": model, "script": script, "n_characters": n}
        for fate in FATES:
            row[f"{fate}_share"] = float(sums[f"n_{fate}"].sum() / n)
        share = _share(sums["n_single_bytes"], sums["n_characters"])
        yield row | share.columns("single_bytes_share")


def _share(hits: pd.Series, totals: pd.Series) -> Estimate:
    """Of characters, those of an article being no independent draws."""
    each = [np.arange(n) < k for k, n in zip(hits, totals, strict=True)]
    articles = pd.Series(np.repeat(hits.index.to_numpy(), totals))
    return clustered_estimate(np.concatenate(each), articles, "share", group=EXAMPLES)


def cost_rows(
    counts: pd.DataFrame,
    facts: Mapping[str, Mapping[str, Any]],
    page_words: int,
    price: float | None,
) -> Iterator[dict[str, Any]]:
    """For each model and language what the whole text takes up of the context, of attention and of
    money.

    A page is what `page_words` words of the English text say; `price` is of a million tokens.
    """
    for model, own in counts.groupby("model", sort=False):
        english = own[own["language"] == REFERENCE]
        pages = english["n_words"].sum() / page_words
        base = attention_flops(int(english["n_tokens"].sum()), facts[str(model)])
        for language, part in own.groupby("language", sort=False):
            n_tokens = int(part["n_tokens"].sum())
            flops = attention_flops(n_tokens, facts[str(model)])
            n_ctx = facts[str(model)]["n_ctx"]
            per_page = float(n_tokens / pages)
            yield {
                "model": model,
                "language": language,
                "n_tokens": n_tokens,
                "context_ratio": n_tokens / n_ctx if n_ctx else None,
                "attention_flops": flops,
                "attention_ratio": flops / base if flops and base else None,
                "tokens_per_page": per_page,
                "price_per_page": None if price is None else per_page * price / 1e6,
            }
