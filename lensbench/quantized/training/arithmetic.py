"""What a base computes in while an adapter is trained on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from lensbench.quantized.precision import quantised_types

if TYPE_CHECKING:
    from lensbench.quantized.loading.load import AdaptedModel

_COMPUTES = ("compute_dtype", "compute_type_is_set")  # what a layer of nf4 says of its arithmetic
_TOKENS = 64  # rows of the product that is timed
_ROUNDS = 3


def prepare_base(model: AdaptedModel) -> Callable[[], None]:
    """Make a quantised base ready to train on, in place: one arithmetic in all that follows.

    On a CPU, bitsandbytes takes int8 weights times unquantised activations while a layer is in
    training mode, and quantises activations otherwise. Its layers are held in training mode here,
    so that training, evaluation and cached states agree, and no row depends on its neighbours. (On
    an accelerator it makes no difference.) Gradients flow through the dequantised weights. Whatever
    is not quantised computes in float32 on a CPU: a backward pass in bfloat16 is many times slower.

    Returns what makes it again what it was, to the bit: for answers, which are given in bfloat16.
    """
    kinds = quantised_types(model.bits)
    quantised: list[Any] = [m for m in model.base.modules() if isinstance(m, kinds)]
    for module in quantised:
        module.training = True
        module.train = lambda mode=True, own=module: own
    widened: list[tuple[Any, torch.dtype]] = []
    computed = [{name: vars(m)[name] for name in _COMPUTES if name in vars(m)} for m in quantised]
    if quantised and model.device.type == "cpu":
        for tensor in [*model.base.parameters(), *model.base.buffers()]:
            if tensor.is_floating_point():
                widened.append((tensor, tensor.dtype))
                tensor.data = tensor.data.float()
        for module in quantised:
            module.compute_dtype = torch.float32  # nf4's; int8 computes in what comes in

    def restore() -> None:
        for tensor, dtype in widened:
            tensor.data = tensor.data.to(dtype)
        for module, before in zip(quantised, computed, strict=True):
            del module.train
            for name in _COMPUTES:
                vars(module).pop(name, None)
            vars(module).update(before)
        model.base.eval()

    return restore


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
