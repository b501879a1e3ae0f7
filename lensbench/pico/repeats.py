"""Random tokens that come twice: what a head and the whole model make of the second time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import make_batch
from lensbench.residuals.capture import watch

_SEED = 0  # the same tokens for every model of a vocabulary


@dataclass(frozen=True)
class Repeats:
    """Means over sequences: of each head's scores, and of the loss the first and the second time.

    A score is the attention of a token's second coming to the token after its first one
    (`induction`: Olsson et al. 2022), or to the token before (`previous_token`).
    """

    induction: Float[Tensor, "block head"]
    previous_token: Float[Tensor, "block head"]
    first_loss_nats: float
    repeat_loss_nats: float


def repeated(d_vocab: int, n: int, length: int) -> list[list[int]]:
    """`n` sequences of `length` random tokens, each twice in a row; the end token is in none."""
    chance = torch.Generator().manual_seed(_SEED)
    half = torch.randint(1, d_vocab, (n, length), generator=chance)
    return torch.cat([half, half], dim=1).tolist()


def measure_repeats(model: LensModel, sequences: Sequence[Sequence[int]]) -> Repeats:
    """One forward pass over sequences that `repeated` made."""
    length = len(sequences[0]) // 2
    sites = model.sites("pattern")
    scores: dict[Site, tuple[Tensor, Tensor]] = {}

    def see(site: Site, pattern: Float[Tensor, "batch head query key"]) -> None:
        scores[site] = (
            pattern.diagonal(1 - length, -2, -1)[..., 1:].float().mean((0, -1)).cpu(),
            pattern.diagonal(-1, -2, -1)[..., length - 1 :].float().mean((0, -1)).cpu(),
        )

    logits = watch(model, make_batch(range(len(sequences)), sequences), sites, see)
    ids = torch.tensor(sequences, device=logits.device)
    nats = cross_entropy(
        logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).reshape(len(sequences), -1)  # [sequence, what position t + 1 is]
    return Repeats(
        torch.stack([scores[site][0] for site in sites]),
        torch.stack([scores[site][1] for site in sites]),
        float(nats[:, : length - 1].mean()),
        float(nats[:, length:].mean()),
    )
