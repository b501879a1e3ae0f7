"""NaN and Inf in weights, found before anything is read with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lensbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHOWN = 5


def all_finite(weight: Tensor) -> bool:
    """Whether no number of it is NaN or Inf.

    The smallest and the largest tell: NaN is both of them where there is one. Asking each number
    takes ten to thirty times as long, and copies.
    """
    return weight.numel() == 0 or all(bool(end.isfinite()) for end in weight.aminmax())


def require_finite(model: PreTrainedModel, name: str) -> None:
    """Raise ModelError naming the weights that hold NaN or Inf."""
    broken = [
        weight_name
        for weight_name, weight in model.named_parameters()
        if weight.is_floating_point() and not all_finite(weight)
    ]
    refuse_broken(
        broken,
        name,
        f"Either they exceed the range of {model.dtype} (try bfloat16 or float32), or the file "
        "is damaged (fetch it again).",
    )


def refuse_broken(broken: list[str], name: str, remedy: str) -> None:
    """Raise ModelError when there are names of weights in `broken`."""
    if broken:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        shown = ", ".join(broken[:_SHOWN]) + more
        raise ModelError(f"{name}: NaN or Inf in the weights of {shown}. {remedy}")
