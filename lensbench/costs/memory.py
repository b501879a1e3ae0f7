"""The memory of a run, by one rule: the program, the weights, and what a job holds at once."""

from __future__ import annotations

from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from lensbench.checkpoints.families import weight_bytes
from lensbench.checkpoints.open import count_parameters
from lensbench.checkpoints.ref import ModelRef
from lensbench.quantized.precision import sizes_of


def weights_in_memory(ref: ModelRef, config: Any, dtype: torch.dtype) -> int:
    """Bytes at the peak of loading the weights."""
    if ref.bits in (4, 8):
        return sizes_of(config).loading_bytes(ref.bits)
    return weight_bytes(count_parameters(config), dtype)


def process_bytes() -> int:
    """What this process holds by now: libraries and tokenizers, which a run holds too."""
    return int(psutil.Process().memory_info().rss)
