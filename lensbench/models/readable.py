"""Models whose attention can be read: causal ones and text encoders, told apart by their config."""

from __future__ import annotations

from typing import Any

from lensbench.checkpoints.config.encoders import holds_encoder
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import ModelError
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.text_encoder import TextEncoder, load_encoder


def reads_both_ways(ref: ModelRef) -> bool:
    """Whether a name is of a text encoder; its folder's config.json says so."""
    return holds_encoder(ref.located.folder)


def require_plain(ref: ModelRef) -> None:
    """Raise ModelError for an encoder with bits or an adapter."""
    if not ref.plain:
        raise ModelError(
            f"{ref}: a text encoder is read in float32, without an adapter ({ref.precision} asked "
            f"for). Name it alone: {ref.name}."
        )


def load_readable(
    model: str | ModelRef, *, device: str | None = None, **causal: Any
) -> LensModel | TextEncoder:
    """A model by its name, whichever way it reads; `causal` is what `load_model` takes besides.

    Raises as `load_model` and `load_encoder`; ModelError for an encoder with bits or an adapter.
    """
    ref = ModelRef.of(model)
    if not reads_both_ways(ref):
        return load_model(ref, device=device, **causal)
    require_plain(ref)
    return load_encoder(ref.name, device)
