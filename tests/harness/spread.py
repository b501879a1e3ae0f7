"""A device list that leaves a tiny model too little memory, so that blocks lie on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.harness.tiny import Case


def on_disk(folder: Path, offload: Path, dtype: str = "float32", in_memory: int = 1) -> str:
    """A `device` with room for so many of the model's blocks; all others are in `offload`."""
    import torch

    from lensbench.checkpoints.blocks import block_list
    from lensbench.checkpoints.open import empty_model, open_config

    model = empty_model(open_config(folder))
    blocks = [sum(w.numel() for w in block.parameters()) for block in block_list(model)[1]]
    rest = model.num_parameters() - sum(blocks)
    room = (rest + max(blocks) + sum(blocks[:in_memory])) * getattr(torch, dtype).itemsize
    return f"cpu={room / 1e6 + 1e-6:.6f}MB,disk={offload}"


def spread(case: Case, offload: Path, dtype: str = "float32") -> Any:
    """The tiny model with blocks on disk."""
    from lensbench.models.load import load_model

    offload.mkdir(exist_ok=True)
    device = on_disk(case.folder, offload, dtype)
    return load_model(case.folder, name=case.name, device=device, dtype=dtype)
