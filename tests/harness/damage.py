"""Checkpoints with other tensors than the model that their config describes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], Tensors]


def without(part: str) -> Change:
    return lambda tensors: {name: t for name, t in tensors.items() if part not in name}


def renamed(change: Callable[[str], str]) -> Change:
    return lambda tensors: {change(name): tensor for name, tensor in tensors.items()}


def damaged(folder: Path, source: Path, change: Change) -> Path:
    """The checkpoint with other tensors."""
    shutil.copytree(source, folder)
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
