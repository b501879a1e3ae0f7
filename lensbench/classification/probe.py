"""A linear probe: logistic regression on the states of a frozen encoder, a mean over tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from lensbench.models.text_encoder import TextEncoder
from lensbench.prompts.batch import make_batch, plan_batches

BATCH_TOKENS = 4096
_FOLDS = 5  # of the examples that are learnt from, to choose how much weights are held down
_MOST_STEPS = 2000

Pooled = Float[np.ndarray, "text d_model"]


def pooled_states(encoder: TextEncoder, token_ids: Sequence[Sequence[int]]) -> Pooled:
    """The mean of the last layer's states over a text's tokens, special ones included, float32."""
    pad = int(encoder.tokenizer.pad_token_id or 0)
    found: dict[int, np.ndarray] = {}
    for items in plan_batches([len(ids) for ids in token_ids], BATCH_TOKENS):
        batch = make_batch(items, token_ids, pad_id=pad)
        mask = batch.attention_mask.to(encoder.device)
        with torch.inference_mode():
            states = encoder.hf(
                input_ids=batch.token_ids.to(encoder.device), attention_mask=mask
            ).last_hidden_state  # [batch, pos, d_model]
        weights = mask[..., None].to(states.dtype)
        means = (states * weights).sum(1) / weights.sum(1)
        found |= dict(zip(items, means.float().cpu().numpy(), strict=True))
    return np.stack([found[item] for item in sorted(found)])


def fitted(states: Pooled, labels: Sequence[int]) -> Any:
    """scikit-learn's logistic regression on standardised states.

    How strongly weights are held down is chosen by cross-validation among the given examples,
    where there are two of each label.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MOST_STEPS))
    folds = min(_FOLDS, *Counter(labels).values())
    if folds < 2:
        return probe.fit(states, labels)
    strengths = {"logisticregression__C": np.logspace(-4, 2, 7)}
    search = GridSearchCV(probe, strengths, cv=folds, scoring="neg_log_loss")
    return search.fit(states, labels).best_estimator_


def probabilities(probe: Any, states: Pooled, n_labels: int) -> Float[np.ndarray, "text label"]:
    """Of every label; 0 for one that the probe was never given."""
    found = np.zeros((len(states), n_labels))
    found[:, probe[-1].classes_] = probe.predict_proba(states)
    return found


def weights_of(probe: Any) -> dict[str, np.ndarray]:
    """What is learnt, as it would be kept: in float32."""
    last = probe[-1]
    return {name: getattr(last, f"{name}_").astype(np.float32) for name in ("coef", "intercept")}
