"""What was measured on an accelerator, fetched in one piece."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


def fetched(read: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Statistics by lens and name, on the CPU. Where they are there already they stay as they are.

    Copied one after the other, each would wait for the device anew.
    """
    tensors = {(lens, name): own for lens, found in read.items() for name, own in found.items()}
    if all(own.device.type == "cpu" for own in tensors.values()):
        return read
    there = by_one_copy(tensors)
    return {lens: {name: there[lens, name] for name in found} for lens, found in read.items()}


def by_one_copy(tensors: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """The same tensors on the CPU, of which one copy of bytes is made."""
    # Widest numbers first, so that each tensor begins at a multiple of its own width.
    order = sorted(tensors, key=lambda key: -tensors[key].dtype.itemsize)
    flat = [tensors[key].contiguous().reshape(-1).view(torch.uint8) for key in order]
    whole, ends = torch.cat(flat).cpu(), accumulate(map(len, flat))
    return {
        key: whole[end - len(own) : end].view(tensors[key].dtype).view(tensors[key].shape)
        for key, own, end in zip(order, flat, ends, strict=True)
    }
