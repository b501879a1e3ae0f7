"""Second moments of states and targets: all that a least-squares fit needs of its data.

Sums over tokens in float64, so they may be made in any pieces and added. One pass over the corpus,
2 d^2 numbers a layer, whatever the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Sums over n tokens of x (the state of a layer), y (the last layer's) and their products.

    `shuffled` is `xy` with the targets dealt out anew among the tokens of a batch: what a fit finds
    where there is nothing to be found.
    """

    n: Float[Tensor, ""]
    x: Float[Tensor, "layer d_model"]
    y: Float[Tensor, " d_model"]
    xx: Float[Tensor, "layer d_model d_model"]
    xy: Float[Tensor, "layer d_model d_model"]
    shuffled: Float[Tensor, "layer d_model d_model"]

    @classmethod
    def none(cls, n_layers: int, d_model: int) -> Moments:
        """Of no token."""
        square = (n_layers, d_model, d_model)
        shapes = {"n": (), "x": square[:2], "y": square[2:]}
        zeros = {f.name: shapes.get(f.name, square) for f in fields(cls)}
        return cls(**{name: torch.zeros(s, dtype=torch.float64) for name, s in zeros.items()})

    @classmethod
    def of(
        cls,
        streams: Iterable[Float[Tensor, "state cell d_model"]],
        n_layers: int,
        d_model: int,
        seed: int,
    ) -> Moments:
        """Of the states of some layers and, after them, the last one; `seed` of the dealing."""
        moments, dealer = cls.none(n_layers, d_model), torch.Generator().manual_seed(seed)
        for own in streams:
            moments.add(own[:-1], own[-1], torch.randperm(own.shape[1], generator=dealer))
        return moments

    def add(
        self,
        states: Float[Tensor, "layer cell d_model"],
        target: Float[Tensor, "cell d_model"],
        deal: Float[Tensor, " cell"],
    ) -> None:
        """Add the states of some tokens, in place; `deal` is a permutation of them."""
        y = target.double()
        self.n.add_(len(y))
        self.y.add_(y.sum(0))
        both = torch.cat([y, y[deal]], dim=1)
        width = y.shape[1]
        for layer, state in enumerate(states):
            x = state.double()
            self.x[layer] += x.sum(0)
            self.xx[layer].addmm_(x.T, x)
            products = x.T @ both
            self.xy[layer] += products[:, :width]
            self.shuffled[layer] += products[:, width:]

    def merge(self, other: Moments) -> None:
        """Add the sums of other tokens, in place."""
        for f in fields(self):
            getattr(self, f.name).add_(getattr(other, f.name))

    def to_bytes(self) -> bytes:
        """As safetensors."""
        return save({f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def of_bytes(cls, data: bytes) -> Moments:
        """Back from `to_bytes`."""
        return cls(**load(data))
