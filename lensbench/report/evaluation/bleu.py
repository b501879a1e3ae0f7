"""Corpus BLEU from summed counts, for many resamples at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ORDERS = 4  # n-grams of 1 to 4 words
N_TERMS = 2 + 2 * ORDERS  # lengths of response and reference; matches; n-grams of the response

Floats = NDArray[np.float64]


def corpus_bleu(sums: Floats) -> Floats:
    """BLEU, 0..100, from sums [..., 10] over sentences: lengths, matches and n-grams by order.

    Papineni et al. 2002, "BLEU", ACL, with exponential smoothing (Chen & Cherry 2014, method 3):
    equal to sacrebleu's `corpus_bleu` with its defaults.
    """
    own, reference = sums[..., 0], sums[..., 1]
    matches, total = sums[..., 2 : 2 + ORDERS], sums[..., 2 + ORDERS :]
    missed = (matches == 0) & (total > 0)
    smoothed = 0.5 ** np.cumsum(missed, axis=-1)  # a half for the first order without a match, ...
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(missed, smoothed, matches) / total).mean(-1)
        brevity = np.minimum(0, 1 - reference / own)
        bleu = 100 * np.exp(brevity + logs)
    return np.where((matches.sum(-1) > 0) & (total > 0).all(-1), bleu, 0.0)
