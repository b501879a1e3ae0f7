"""Random adapters on tiny models, as training leaves one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lensbench.checkpoints.hashes import hashes
from lensbench.quantized.adapters.adapter import CONFIG, WEIGHTS
from lensbench.quantized.adapters.lora import adapt, match
from lensbench.quantized.adapters.spec import Lora
from lensbench.records.store import MANIFEST
from tests.harness.tiny import Case

LORA = Lora(blocks="1-2", rank=4, alpha=6)


def make_adapter(
    case: Case,
    folder: Path,
    seed: int = 1,
    size: float = 0.2,
    lora: Lora = LORA,
    manifest: dict[str, Any] | None = None,
) -> Path:
    """Both factors are noise of this size. Size 0: as before training, A is random and B zero."""
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


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def cut_one(weights: dict[str, torch.Tensor]) -> None:
    del weights["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]


def widen(weights: dict[str, torch.Tensor]) -> None:
    key = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    weights[key] = torch.zeros(4, 33)


def logits(model: Any, case: Case) -> torch.Tensor:
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([ids])).logits[0] for ids in case.token_ids]
    return torch.cat(rows)
