"""Tensors that a pass comes by in every block, as far as its family has them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from torch import Tensor

from lensbench.errors import ModelError
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import make_batch
from lensbench.residuals.capture import watch


def values_of(model: LensModel, ids: Sequence[int], kinds: Sequence[str]) -> dict[Site, Tensor]:
    """What stands at some of TransformerLens' hook points in one pass.

    Without those that a block lacks: some families have blocks that do not rotate (SmolLM3,
    EXAONE 4).
    """
    there, found = model.bridge.hook_dict, dict[Site, Tensor]()
    every = [Site(kind, layer) for layer in range(1, model.n_layers + 1) for kind in kinds]
    sites = [site for site in every if site.hook in there]
    with suppress(ModelError):  # raised behind the pass, for blocks that it did not come by
        watch(model, make_batch([0], [ids]), sites, found.__setitem__, columns=[])
    return found
