"""Causal fidelity: what moves a lens when it is removed, does it move the model?

Belrose et al. 2023 (arXiv 2303.08112, section 4) remove directions from the states of a layer and
set what that does to the lens (the stimulus) beside what it does to the model's own output (the
response). Here both are a divergence in bits, means over tokens; a direction is removed at every
token of a text at once, by putting the mean state's share of it in its place.

Removing more of a state moves every lens more, also one that reads nothing. So the directions are
principal ones, drawn by chance, and beside Spearman's correlation stands that given the variance
which each of them removes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from lensbench.checkpoints.devices import wide
from lensbench.fitting.quality import FIRST
from lensbench.lens.base import Lens
from lensbench.lens.metrics import Distribution, kl_bits
from lensbench.lens.vocabulary.beside import Beside
from lensbench.models.forward import forward
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import make_batch
from lensbench.residuals.capture import capture_positions

_FEWEST = 5  # directions, of which a correlation has an interval


@dataclass(frozen=True)
class Directions:
    """Directions of a layer's states to be removed, and the variance that goes with each."""

    mean: Float[Tensor, " d_model"]
    unit: Float[Tensor, "direction d_model"]
    variances: Float[np.ndarray, " direction"]

    @classmethod
    def drawn(cls, states: Float[Tensor, "cell d_model"], n: int, seed: int) -> Directions:
        """`n` of the principal directions in which some states vary, fewer where there are less."""
        exact = states.cpu().double()
        mean = exact.mean(0)
        _, sizes, unit = torch.linalg.svd(exact - mean, full_matrices=False)
        varies = int((sizes > sizes[0] * len(sizes) * torch.finfo(states.dtype).eps).sum())
        chosen = np.sort(np.random.default_rng(seed).permutation(varies)[:n])
        variances = (sizes[chosen] ** 2 / len(states)).numpy()
        return cls(mean.float(), unit[chosen].float(), variances)


def removed(
    states: Float[Tensor, "*cell d_model"],
    mean: Float[Tensor, " d_model"],
    unit: Float[Tensor, "*#cell d_model"],
) -> Float[Tensor, "*cell d_model"]:
    """States that are all at the mean along a direction of length 1."""
    return states - ((states - mean) * unit).sum(-1, keepdim=True) * unit


@torch.inference_mode()
def stimuli(
    lens: Lens, states: Float[Tensor, "cell d_model"], site: Site, directions: Directions
) -> Float[np.ndarray, " direction"]:
    """KL(lens || lens without a direction) in bits, mean over tokens."""
    mean, unit = directions.mean.to(states.device), directions.unit.to(states.device)
    sums = np.zeros(len(unit))
    for own in states.split(Beside.rows_at_once(lens.readout)):
        whole = Beside(lens.readout, lens.logits(own, site))
        for i, one in enumerate(unit):
            without = lens.normed(removed(own, mean, one), site)
            sums[i] += float(whole.compare(without).kl_bits.sum())
    return sums / len(states)


@torch.inference_mode()
def responses(
    model: LensModel,
    texts: Sequence[Sequence[int]],
    site: Site,
    directions: Directions,
    batch_tokens: int,
) -> Float[np.ndarray, " direction"]:
    """KL(model || model without a direction at a site) in bits, mean over tokens but the first."""
    mean, unit = directions.mean.to(model.device), directions.unit.to(model.device)
    sums = np.zeros(len(unit))
    for ids in texts:
        logits = forward(model.bridge, make_batch([0], [ids]), model.device)[0, FIRST:]
        own = Distribution.from_logits(logits.float())
        for chosen in torch.arange(len(unit)).split(max(batch_tokens // len(ids), 1)):

            def remove(value: Tensor, hook: object, chosen: Tensor = chosen) -> Tensor:
                without = removed(value.float(), mean, unit[chosen][:, None])
                without[:, :FIRST] = value[:, :FIRST].float()
                return without.to(value.dtype)

            batch = make_batch(range(len(chosen)), [ids] * len(chosen))
            moved = forward(model.bridge, batch, model.device, [(site.hook, remove)])
            for row, i in enumerate(chosen.tolist()):
                without = Distribution.from_logits(moved[row, FIRST:].float())
                sums[i] += float(wide(kl_bits(own, without)).sum())
    return sums / sum(len(ids) - FIRST for ids in texts)


Correlation = tuple[float | None, float | None, float | None]  # with its 95 % interval


def spearman(
    a: Float[np.ndarray, " direction"],
    b: Float[np.ndarray, " direction"],
    given: Float[np.ndarray, " direction"] | None = None,
) -> Correlation:
    """Spearman's correlation, -1..1, or the partial one of ranks given a third number.

    None where one of them is all alike. Its interval over directions is Bonett & Wright's (2000),
    on Fisher's scale; at -1 and 1, and of few directions, there is none.
    """
    ranks = [stats.rankdata(one) for one in ((a, b) if given is None else (a, b, given))]
    if any(np.ptp(one) == 0 for one in ranks) or len(a) < 3:
        return None, None, None
    among = np.corrcoef(ranks)
    value, n = float(among[0, 1]), len(a)
    if given is not None:
        n -= 1
        rest = (1 - among[0, 2] ** 2) * (1 - among[1, 2] ** 2)
        if rest < 1e-12:
            return None, None, None
        value = float((value - among[0, 2] * among[1, 2]) / rest**0.5)
    value = min(max(value, -1.0), 1.0)
    if n < _FEWEST or abs(value) > 1 - 1e-9:
        return value, None, None
    half = stats.norm.ppf(0.975) * ((1 + value**2 / 2) / (n - 3)) ** 0.5
    low, high = np.tanh(np.arctanh(value) + np.array([-half, half]))
    return value, float(low), float(high)


@dataclass(frozen=True)
class Fidelity:
    """Of one lens at one layer."""

    reading: str
    layer: int
    spearman: Correlation
    partial: Correlation  # given the variance that is removed
    n_directions: int
    n_tokens: int


def fidelity(
    model: LensModel,
    lenses: Mapping[str, Lens],
    site: Site,
    texts: Sequence[Sequence[int]],
    directions: Directions,
    batch_tokens: int = 512,
) -> list[Fidelity]:
    """Of some lenses at a site, on the same texts and directions."""
    positions = [range(FIRST, len(ids)) for ids in texts]
    states = torch.cat(
        [
            capture_positions(model, [ids], [own], [site]).stream[0]
            for ids, own in zip(texts, positions, strict=True)
        ]
    )
    response = responses(model, texts, site, directions, batch_tokens)
    found = []
    for name, lens in lenses.items():
        stimulus = stimuli(lens, states, site, directions)
        found.append(
            Fidelity(
                name,
                site.layer,
                spearman(stimulus, response),
                spearman(stimulus, response, directions.variances),
                len(response),
                len(states),
            )
        )
    return found
