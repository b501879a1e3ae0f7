"""Numbers of the contract from whole distributions, in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from lensbench.lens.importing.draft import Decode

_LN2 = float(np.log(2))
TOP_K = 5
_NORMALISED = 1e-2  # nats that the log of a distribution's sum may be off


def normalised(log_probs: Float[np.ndarray, "layer d_vocab"]) -> bool:
    """Whether these are logarithms of distributions: each sums to 1."""
    return bool((np.abs(logsumexp(log_probs, axis=-1)) < _NORMALISED).all())


def of_log_probs(
    log_probs: Float[np.ndarray, "layer d_vocab"],
    answer_id: int | None,
    model: Float[np.ndarray, " d_vocab"] | None,
    decode: Decode | None,
) -> list[dict[str, Any]]:
    """What each layer's distribution says of one position.

    Args:
        log_probs: natural logarithms, which sum to 1.
        answer_id: None: nothing is asked about an answer.
        model: the model's own; None: no KL.
        decode: None: top tokens without text.
    """
    rows = []
    for own in log_probs.astype(np.float64):
        probs = np.exp(own)
        best = np.argsort(-own, kind="stable")[:TOP_K]
        row: dict[str, Any] = {
            "entropy_bits": -_expected(probs, own) / _LN2,
            "top_ids": best.tolist(),
            "top_probs": probs[best].tolist(),
        }
        if decode is not None:
            row["top_tokens"] = [decode(int(token)) for token in best]
        if model is not None:
            said = model.astype(np.float64)
            off = _expected(np.exp(said), said) - _expected(np.exp(said), own)
            row["kl_bits"] = max(off, 0.0) / _LN2
        if answer_id is not None:
            row["answer_id"] = answer_id
            row["answer_prob"] = float(probs[answer_id])
            row["answer_rank"] = int((own > own[answer_id]).sum()) + 1
            row["answer_ties"] = int((own == own[answer_id]).sum()) - 1
        rows.append(row)
    return rows


def _expected(probs: np.ndarray, values: np.ndarray) -> float:
    """The mean of values under a distribution; what cannot happen does not count."""
    there = probs > 0
    return float(probs[there] @ values[there])
