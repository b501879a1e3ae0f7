"""A lens is an object: what is handed to the model's own head for a residual vector at a site.

Every lens ends in the same readout (models/readout.py). It may differ in what it makes of the
vector first (`transform`, such as a fitted affine map) and in the norm that it puts before the
head (`norm`; the model's final one unless it says otherwise).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lensbench.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lensbench.models.model import LensModel
    from lensbench.models.sites import Site


class Lens:
    """A way to read the residual stream of one model; made for it by `make_lens`.

    `headline` says what may be claimed with it: a lens that may stand for the model's output has to
    reproduce it at the last layer (the gate holds it to that); any other is for sensitivity only.
    """

    headline = True

    def __init__(self, model: LensModel) -> None:
        """Raises ModelError, or what reading its files raises, where the model lacks its needs."""
        self.readout = model.readout

    def reads(self, site: Site) -> bool:
        """Whether it is read here; a published lens may know nothing of the embedding."""
        return True

    def transform(
        self, resid: Float[Tensor, "*cell d_model"], site: Site
    ) -> Float[Tensor, "*cell d_model"]:
        """The residual vectors of a site, float32, as the norm is to see them."""
        return resid

    def norm(
        self, resid: Float[Tensor, "*cell d_model"], site: Site
    ) -> Float[Tensor, "*cell d_model"]:
        """The norm before the head, its statistics made of the vectors themselves."""
        return self.readout.norm(resid)

    def guesses(
        self, embedding: Float[Tensor, "*cell d_model"]
    ) -> Sequence[Float[Tensor, "*cell d_model"]]:
        """What each control of the lens makes of the last token's embedding; most have none."""
        return ()

    def normed(
        self, resid: Float[Tensor, "*cell d_model"], site: Site
    ) -> Float[Tensor, "*cell d_model"]:
        """What the head reads, float32."""
        return self.norm(self.transform(resid.float(), site), site)

    def logits(
        self, resid: Float[Tensor, "*cell d_model"], site: Site
    ) -> Float[Tensor, "*cell d_vocab"]:
        """Logits of residual vectors at a site, float32."""
        return self.readout.logits(self.normed(resid, site))


class Final(Lens):
    """The logit lens (nostalgebraist 2020): as if the model stopped here."""


class Next(Lens):
    """With the norm that the next sub-layer applies; needs a site where the model exposes one.

    At 16.8 bits where the final norm reads 2.0 (Llama-3-8B, layer 26), it is no lens of the output.
    """

    headline = False

    def __init__(self, model: LensModel) -> None:
        super().__init__(model)
        self._norms = model.next_norms

    def norm(
        self, resid: Float[Tensor, "*cell d_model"], site: Site
    ) -> Float[Tensor, "*cell d_model"]:
        """That of the sub-layer after `site`. Raises ModelError where the model exposes none."""
        if site not in self._norms:
            raise ModelError(
                f"the lens 'next' has no norm at {site.name} of layer {site.layer}: this model "
                "does not expose one there. Use the lens 'final' or leave that site out."
            )
        return self._norms[site](resid)


class Raw(Lens):
    """Without any norm: the vector as it stands. No lens of the output of a model that has one."""

    headline = False

    def norm(
        self, resid: Float[Tensor, "*cell d_model"], site: Site
    ) -> Float[Tensor, "*cell d_model"]:
        """None."""
        return resid
