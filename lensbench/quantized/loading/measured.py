"""The number formats that a loaded model's weights are really in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from lensbench.checkpoints.blocks import block_list
from lensbench.checkpoints.ref import Bits
from lensbench.errors import ModelError
from lensbench.quantized.precision import PRECISIONS, quantised_types

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of the weights in the blocks: what is left besides quantised layers (norms, biases, the short
# convolutions of some) is far less in every model without mixtures of experts.
_LEFT = 0.05
_ADAPTER = ("lora_", "modules_to_save", "trainable_tokens")  # PEFT's own modules begin so
_SHOWN = 3

Held = tuple[str, str, int]  # a module's name, a number format, and how many weights are in it


def precisions(model: nn.Module, bits: Bits) -> dict[str, dict[str, Any]]:
    """By number format: modules that have weights in it, the weights, and their share of all.

    A quantised weight counts once, whatever it is packed into; a tied head once; an adapter not.
    """
    held = list(_held(model, bits))
    total = sum(n for *_, n in held)
    found: dict[str, dict[str, Any]] = {}
    for form in sorted({form for _, form, _ in held}):
        own = [(name, n) for name, f, n in held if f == form]
        n_weights = sum(n for _, n in own)
        modules = len({name for name, _ in own})
        found[form] = {"modules": modules, "weights": n_weights, "share": n_weights / total}
    return found


def require_bits(model: PreTrainedModel, bits: Bits, name: str) -> None:
    """The weights in the blocks are in this many bits. Raises ModelError naming what is not.

    bitsandbytes quantises linear layers; the experts of a mixture are often three-dimensional
    parameters, which it passes over without a word.
    """
    if bits not in (8, 4):
        return
    held = list(_held(block_list(model)[1], bits))
    left = [(module, n) for module, form, n in held if form != PRECISIONS[bits]]
    share = sum(n for _, n in left) / sum(n for *_, n in held)
    if share <= _LEFT:
        return
    largest = sorted(left, key=lambda one: -one[1])[:_SHOWN]
    parts = ", ".join(f"block {module}" for module, _ in largest)
    raise ModelError(
        f"{name}: {share:.0%} of the weights in its blocks would stay in 16 bits (such as {parts}: "
        f"experts of a mixture are no linear layers, and bitsandbytes quantises nothing else), so "
        f"this would be no model at {bits} bits. Use --bits 16."
    )


def _held(model: nn.Module, bits: Bits) -> Iterator[Held]:
    """The weights of each module, by their number format."""
    kinds, seen = quantised_types(bits), set[int]()
    for name, module in model.named_modules():
        if any(part.startswith(_ADAPTER) for part in name.split(".")):
            continue
        for parameter in module.parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            layer: Any = module
            if isinstance(module, kinds) and parameter is layer.weight:
                yield name, PRECISIONS[bits], int(layer.in_features * layer.out_features)
            else:
                yield name, str(parameter.dtype).removeprefix("torch."), parameter.numel()
