"""Random tokens that come several times, and what a model makes of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lensbench.attention.conditions import REPEATS
from lensbench.models.model import LensModel
from lensbench.residuals.capture import capture_positions


def sequences_of(tokens: Collection[int], n: int, n_tokens: int) -> list[tuple[int, ...]]:
    """`n` sequences of at most `n_tokens` tokens, random ones `REPEATS` times over.

    Args:
        tokens: what they are drawn from, evenly. The same tokens give the same sequences.
    """
    choices, length = sorted(set(tokens)), n_tokens // REPEATS
    drawn = (np.random.default_rng([0, number]).choice(choices, length) for number in range(n))
    return [tuple(one.tolist()) * REPEATS for one in drawn]


def losses_of(model: LensModel, sequences: Sequence[tuple[int, ...]]) -> tuple[float, float]:
    """Nats, means over the sequences: of tokens that come for the first time, and of those that
    come again."""
    everywhere = [range(len(ids)) for ids in sequences]
    logits = capture_positions(model, sequences, everywhere, [model.final_site]).logits
    ids = torch.tensor(sequences, device=logits.device)
    nats = cross_entropy(
        logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).reshape(len(sequences), -1)  # [sequence, what position t + 1 is]
    length = ids.shape[1] // REPEATS
    return float(nats[:, : length - 1].mean()), float(nats[:, length - 1 :].mean())
