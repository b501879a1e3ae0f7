"""NaN and Inf in weights, found before anything is read with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lensbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHOWN = 5


@dataclass(frozen=True)
class Seen:
    """What is found of tensors on their way from a file into `dtype`, each looked at once."""

    dtype: torch.dtype
    broken: list[str] = field(default_factory=list)  # NaN or Inf as they are stored
    beyond: list[str] = field(default_factory=list)  # finite, and outside the range of `dtype`

    def look(self, name: str, tensor: Tensor) -> None:
        """Keep the name of a tensor that is not finite, or will not be."""
        if not _finite(ends := _ends(tensor)):
            self.broken.append(name)
        elif not _finite(end.to(self.dtype) for end in ends):  # rounding keeps the order
            self.beyond.append(name)


def all_finite(weight: Tensor) -> bool:
    """Whether no number of it is NaN or Inf."""
    return _finite(_ends(weight))


def _ends(weight: Tensor) -> tuple[Tensor, ...]:
    """The smallest and the largest number, each NaN where there is one; none of what has no point.

    They tell what asking each number does, which takes ten to thirty times as long, and copies.
    torch compares no numbers of 8 bits, each of which is one in bfloat16 too.
    """
    if weight.numel() == 0 or not weight.is_floating_point():
        return ()
    return tuple((weight.bfloat16() if weight.itemsize == 1 else weight).aminmax())


def _finite(numbers: Iterable[Tensor]) -> bool:
    return all(bool(number.isfinite()) for number in numbers)


def require_finite(model: PreTrainedModel, name: str) -> None:
    """Raise ModelError naming the weights that hold NaN or Inf."""
    broken = [
        weight_name for weight_name, weight in model.named_parameters() if not all_finite(weight)
    ]
    refuse_broken(broken, name, _either(model.dtype))


def require_in_range(seen: Seen, model: PreTrainedModel, quantised: bool, name: str) -> None:
    """Raise ModelError for weights that became Inf on their way.

    Some modules are kept in a wider format than the others, so that it is the model that tells;
    quantised weights tell no more.
    """
    if quantised:
        refuse_broken(seen.beyond, name, _either(seen.dtype))
    elif seen.beyond:
        require_finite(model, name)


def _either(dtype: torch.dtype) -> str:
    return (
        f"Either they exceed the range of {str(dtype).removeprefix('torch.')} (try bfloat16 or "
        "float32), or the file is damaged (fetch it again)."
    )


def refuse_broken(broken: list[str], name: str, remedy: str) -> None:
    """Raise ModelError when there are names of weights in `broken`."""
    if broken:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        shown = ", ".join(broken[:_SHOWN]) + more
        raise ModelError(f"{name}: NaN or Inf in the weights of {shown}. {remedy}")
