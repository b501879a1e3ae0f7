"""An affine lens: each layer's state through a fitted map, then the model's own readout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from lensbench.checkpoints.devices import has_float64, wide
from lensbench.errors import ModelError
from lensbench.lens.base import Lens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lensbench.models.model import LensModel
    from lensbench.models.sites import Site

_MOST_LOST = 2  # times its length: the terms of a sum that float32 is trusted with, by their norm
_MAPPED = ("embed", "resid_post")  # the states between blocks, one a layer


class _Parts(NamedTuple):
    A: Float[Tensor, "d_model d_model"]
    b: Float[Tensor, " d_model"]


class AffineMap(_Parts):
    """x -> x A + b, float32."""

    def __call__(self, x: Float[Tensor, "*cell d_model"]) -> Float[Tensor, "*cell d_model"]:
        """The state as the last layer would have it.

        Where large terms cancel, as those of a first token's massive activations do, float32 sums
        lose what is left: such rows are mapped in float64 and rounded once. (On SmolLM2 they moved
        an entropy by a third of what it may be off by; rows below the limit by a sixth.)
        """
        mapped = x @ self.A + self.b
        if not has_float64(x.device):
            return mapped
        by_state, shift = self._squares
        terms = (x.detach().square() @ by_state + shift).sqrt()
        cancelling = terms > _MOST_LOST * mapped.detach().norm(dim=-1)
        if cancelling.any():
            exact = wide(x[cancelling]) @ wide(self.A) + wide(self.b)
            mapped[cancelling] = exact.to(mapped.dtype)
        return mapped

    @cached_property
    def _squares(self) -> tuple[Float[Tensor, " d_model"], Float[Tensor, ""]]:
        """Of each row of A, and of b: once a map, for few states are mapped at a time."""
        return self.A.detach().square().sum(1), self.b.detach().square().sum()


class Affine(Lens):
    """A map of each layer to the last one; there it is the identity, by definition.

    (The map that ridge finds for the last layer is pulled off the identity by .15 bits.)
    """

    def __init__(
        self,
        model: LensModel,
        maps: Mapping[int, AffineMap],
        name: str,
        controls: Sequence[AffineMap] = (),
    ) -> None:
        """`controls`: maps of the embedding alone (see `guesses`)."""
        super().__init__(model)
        device = model.device
        self._maps = {i: AffineMap(A.to(device), b.to(device)) for i, (A, b) in maps.items()}
        self._controls = [AffineMap(A.to(device), b.to(device)) for A, b in controls]
        self._last, self._name = model.n_layers, name

    def guesses(
        self, embedding: Float[Tensor, "*cell d_model"]
    ) -> Sequence[Float[Tensor, "*cell d_model"]]:
        """The embedding through each control: what the map says without having seen the prompt."""
        return [control(embedding) for control in self._controls]

    def reads(self, site: Site) -> bool:
        """Not a layer without a map. A state inside a block is asked for, and refused."""
        return site.kind not in _MAPPED or site.layer == self._last or site.layer in self._maps

    def transform(
        self, resid: Float[Tensor, "*cell d_model"], site: Site
    ) -> Float[Tensor, "*cell d_model"]:
        """The state of a layer, mapped. Raises ModelError for a site that has no map."""
        if site.kind in _MAPPED and site.layer == self._last:
            return resid
        if site.kind not in _MAPPED or site.layer not in self._maps:
            raise ModelError(
                f"the lens '{self._name}' has no map for {site.name} of layer {site.layer}: it is "
                "fitted between blocks. Use the lens 'final' there, or leave that site out."
            )
        return self._maps[site.layer](resid)
