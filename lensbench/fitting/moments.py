"""Second moments of states and targets: all that a least-squares fit needs of its data.

Sums over tokens in float64, so they may be made in any pieces and added. One pass over the corpus,
3 d^2 numbers a layer, whatever the number of tokens.

Of states with each other the products are float64 too: a ridge divides by their variances, however
small. Of states with targets they are float32, of both about their means over the tokens that are
added at once, and what the means add is float64: each is off by at most (n + 2) 2^-24 of the sum of
absolute terms of n tokens (Higham 2002, section 3.5), none of which is larger for an offset.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

_STRIPS = 4  # of a square: more of them save more of it, and are slower to multiply


@dataclass(frozen=True)
class Moments:
    """Sums over n tokens of x (the state of a layer), y (the last layer's) and their products.

    Of `xx`, which is symmetric, only what is on the diagonal and above it is there.

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
        total_y, n = y.sum(0), len(y)
        mean_y = total_y / n
        self.n.add_(n)
        self.y.add_(total_y)
        centred = (y - mean_y).float()
        both = torch.cat([centred, centred[deal]], dim=1)
        for layer, state in enumerate(states):
            x = state.double()
            total = x.sum(0)
            self.x[layer] += total
            _add_square(self.xx[layer], x)
            products = (x - total / n).float().T @ both
            own = zip((self.xy[layer], self.shuffled[layer]), products.chunk(2, dim=1), strict=True)
            for sums, added in own:
                sums.add_(added).addr_(total, mean_y)

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


def _add_square(sums: Float[Tensor, "d_model d_model"], x: Float[Tensor, "cell d_model"]) -> None:
    """Add x'x on the diagonal and above it: strip by strip, without most of what is its mirror."""
    for start, stop in strips(len(sums)):
        sums[start:stop, start:].addmm_(x[:, start:stop].T, x[:, start:])


def strips(width: int) -> list[tuple[int, int]]:
    """Where each strip of a square begins and ends."""
    size = -(-width // _STRIPS)
    return [(start, min(start + size, width)) for start in range(0, width, size)]
