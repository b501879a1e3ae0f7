"""Random adapters on tiny models, as training leaves one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lensbench.checkpoints.hashes import hashes
from lensbench.quantized.adapters.lora import Lora, adapt, match
from lensbench.records.store import MANIFEST
from tests.harness.tiny import Case

LORA = Lora(layers="1-2", rank=4, alpha=6)


def make_adapter(
    case: Case,
    folder: Path,
    seed: int = 1,
    size: float = 0.2,
    lora: Lora = LORA,
    manifest: dict[str, Any] | None = None,
) -> Path:
    """Both factors are noise of this size. Size 0: as before training, A is random and B zero."""
    import torch

    model = case.fresh_hf()
    adapted = adapt(model, match(model, lora), lora, "tiny")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad and size:
                parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder, save_embedding_layers=False)
    facts = {"model": {**hashes(case.folder), "name": case.name}} | (manifest or {})
    (folder / MANIFEST).write_text(json.dumps(facts))
    return folder
