"""A model of Hugging Face: the list that holds its blocks, and what its class can be asked for."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from torch import nn

from lensbench.checkpoints.config.shape import n_blocks
from lensbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def block_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list of the text decoder's blocks, and its name in `model`.

    Raises ModelError when the decoder holds none, or more than one, of as many modules as the
    config counts blocks: a vision tower of the same depth is no part of it.
    """
    n_layers = n_blocks(model.config)
    decoder = model.get_decoder()
    # A module that is called so may be another: ModernBERT's is its head.
    inside = {id(module) for module in decoder.modules() if hasattr(decoder, "config")}
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    found = [(name, module) for name, module in found if not inside or id(module) in inside]
    outer = [
        (name, module)
        for name, module in found
        if not any(name.startswith(f"{other}.") for other, _ in found)
    ]
    if len(outer) != 1:
        names = ", ".join(name for name, _ in outer) or "none"
        raise ModelError(
            f"{type(model).__name__} has no one list of {n_layers} blocks in its decoder (found: "
            f"{names}), so it is unknown what a block of it is. Take another model."
        )
    return outer[0]


def keeps_some(hf_model: Any) -> bool:
    """Whether a model's class (None: it has none) can be asked for the logits of some columns."""
    return hf_model is not None and "logits_to_keep" in signature(hf_model.forward).parameters
