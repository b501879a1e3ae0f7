"""Means over words, each of which stands for itself."""

from __future__ import annotations

import pandas as pd

from lensbench.stats.estimates import WORD, Estimate, clustered_estimate, within

MEASURES = {"accuracy": (0.0, 1.0), "separation": (-2.0, 2.0)}  # of a word's senses, and their ends


def over_words(values: pd.Series, measure: str) -> Estimate:
    """The mean over words of one of `MEASURES`, its interval cut to what the measure can be.

    Where every word is told each time, that of a share: twenty words are not all words.
    """
    whole = measure == "accuracy" and values.isin([0.0, 1.0]).all()
    statistic = "share" if whole else "mean"
    found = clustered_estimate(values, None, statistic, "no words", WORD)  # type: ignore[arg-type]
    return within(found, *MEASURES[measure])
