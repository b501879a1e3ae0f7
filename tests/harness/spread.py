"""A device list that leaves a tiny model too little memory, so that blocks lie on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.harness.tiny import Case


def on_disk(folder: Path, offload: Path, dtype: str = "float32") -> str:
    """A `device` whose memory has room for one of the model's blocks; others are in `offload`."""
    return f"cpu={_room(folder, dtype)},disk={offload}"


def load_and_die(folder: Path, device: str) -> None:
    """Load a model there, and end without a chance to tidy up."""
    from lensbench.models.load import load_model

    load_model(folder, device=device)
    os._exit(1)


def beside(folder: Path, device: str, other: str, dtype: str = "float32") -> str:
    """The same of two devices: all blocks but the first are on the other one."""
    return f"{device}={_room(folder, dtype)},{other}"


def _room(folder: Path, dtype: str) -> str:
    import torch

    from lensbench.checkpoints.blocks import block_list
    from lensbench.checkpoints.open import empty_model, open_config

    model = empty_model(open_config(folder))
    blocks = [sum(w.numel() for w in block.parameters()) for block in block_list(model)[1]]
    rest = model.num_parameters() - sum(blocks)
    room = (rest + max(blocks) + blocks[0]) * getattr(torch, dtype).itemsize
    return f"{room / 1e6 + 1e-6:.6f}MB"


def spread(case: Case, offload: Path, dtype: str = "float32") -> Any:
    """The tiny model with blocks on disk."""
    from lensbench.models.load import load_model

    offload.mkdir(exist_ok=True)
    device = on_disk(case.folder, offload, dtype)
    return load_model(case.folder, name=case.name, device=device, dtype=dtype)
