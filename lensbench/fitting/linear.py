"""The linear lens: ridge regression from each layer's state to the last one.

Din et al. 2023 (arXiv 2303.09435), with an intercept. For centred states X and targets Y of one
layer the map is A = (X'X + n r v I)^-1 X'Y, where v is the mean variance of a state's dimensions
and r the strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.fitting.moments import Moments
from lensbench.lens.fitted.affine import AffineMap

STRENGTHS = (1e-5, 1e-3, 1e-1)


@dataclass(frozen=True)
class Centred:
    """Moments of one layer about their means, a token's share."""

    n: Float[Tensor, ""]  # tokens
    mean_x: Float[Tensor, " d_model"]
    mean_y: Float[Tensor, " d_model"]
    xx: Float[Tensor, "d_model d_model"]
    xy: Float[Tensor, "d_model d_model"]

    @classmethod
    def of(cls, moments: Moments, layer: int, shuffled: bool = False) -> Centred:
        """Of a layer (its place in the moments), or with the targets dealt out anew."""
        mean_x, mean_y = moments.x[layer] / moments.n, moments.y / moments.n
        products = (moments.shuffled if shuffled else moments.xy)[layer]
        upper = moments.xx[layer].triu()
        xx = (upper + upper.triu(1).T) / moments.n - torch.outer(mean_x, mean_x)
        return cls(
            moments.n, mean_x, mean_y, xx, products / moments.n - torch.outer(mean_x, mean_y)
        )

    @cached_property
    def directions(
        self,
    ) -> tuple[Float[Tensor, " d_model"], Float[Tensor, "d_model d_model"], Float[Tensor, ""]]:
        """Variances, their directions (columns), and the variance that rounding alone makes.

        What is left of a large mean when it is taken off a sum of n squares is rounding too.
        """
        variances, directions = torch.linalg.eigh(self.xx)
        variances = variances.clamp(min=0)
        rounded = variances.max() * len(variances) + self.mean_x.square().sum() * self.n
        noise = rounded * torch.finfo(torch.float64).eps
        return variances, directions, noise

    def affine(self, slope: Float[Tensor, "d_model d_model"]) -> AffineMap:
        """The map with the intercept that belongs to it."""
        return AffineMap(slope.float(), (self.mean_y - self.mean_x @ slope).float())


def ridge(
    of: Centred, strengths: Sequence[float] = STRENGTHS, like: Centred | None = None
) -> list[AffineMap]:
    """The map of each strength, all from one eigendecomposition.

    `like`: of the same states and other targets, whose decomposition serves.

    Dimensions in which no state varies get no weight, at any strength: a layer whose states are all
    alike is read as the mean of the targets.
    """
    variances, directions, noise = (like or of).directions
    turned = directions.T @ of.xy
    maps = []
    for strength in strengths:
        shrunk = variances + strength * variances.mean()
        weights = torch.where(variances > noise, 1 / shrunk, 0.0)
        maps.append(of.affine(directions @ (weights[:, None] * turned)))
    return maps


def calibration(of: Centred) -> AffineMap:
    """The best map that turns nothing: a number times the state, and an intercept.

    What it gains over the bare state is scale and bias; only the rest of a lens is rotation.
    """
    variance = of.xx.diagonal().sum()
    scale = of.xy.diagonal().sum() / variance if variance > 0 else torch.zeros(())
    return of.affine(scale * torch.eye(len(of.mean_x), dtype=torch.float64))
