"""What a base computes in while an adapter is trained on it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import nn

from lensbench.quantized.precision import quantised_types

if TYPE_CHECKING:
    from lensbench.quantized.load import AdaptedModel

_TOKENS = 64  # rows of the product that is timed
_ROUNDS = 3


def prepare_base(model: AdaptedModel) -> list[nn.Module]:
    """Make a base ready to train on, in place; returns the modules to keep in inference mode.

    Those are the quantised ones: bitsandbytes would otherwise train with other arithmetic than
    that of inference (on a CPU, int8 layers then leave activations unquantised). Gradients flow
    through them all the same, by the dequantised weights. On a CPU, whatever is not quantised
    computes in float32, since the backward pass in bfloat16 is many times slower there.
    """
    kinds = quantised_types(model.bits)
    quantised = [module for module in model.base.modules() if isinstance(module, kinds)]
    if quantised and model.device.type == "cpu":
        for tensor in [*model.base.parameters(), *model.base.buffers()]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.float()
        if model.bits == 4:
            for module in quantised:
                module.compute_dtype = torch.float32  # type: ignore[assignment]
    return quantised


def bfloat16_slowdown(d_model: int) -> float:
    """How many times longer the product of a backward pass takes in bfloat16 than in float32."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        gradient = torch.randn(_TOKENS, d_model, dtype=dtype)
        weight = torch.randn(d_model, d_model, dtype=dtype)
        torch.mm(gradient, weight)
        started = time.perf_counter()
        for _ in range(_ROUNDS):
            torch.mm(gradient, weight)
        seconds[dtype] = time.perf_counter() - started
    return seconds[torch.bfloat16] / seconds[torch.float32]
