"""A model whose texts have a known length, and whose operations torch counts."""

from __future__ import annotations

from pathlib import Path

import lensbench as lb
from lensbench.quantized.loading.load import AdaptedModel


def loaded(folder: Path, ends: bool) -> AdaptedModel:
    """A model that ends every text at once, or none."""
    model = lb.load_quantized(str(folder), bits=32, device="cpu")
    model.base.set_attn_implementation("eager")  # a CPU's fused attention is not counted by torch
    model.tokenizer.eos_token = None
    model.base.generation_config.eos_token_id = [*range(model.d_vocab)] if ends else None
    return model
