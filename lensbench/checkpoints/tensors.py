"""A checkpoint's tensors, each read and checked when it is asked for.

transformers maps the files into memory instead, and there they stay for as long as one tensor is
used as it was stored: 2.2 GB of TinyLlama beside its 1.2 GB in 8 bits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lensbench.checkpoints.open import empty_model, open_config, refuse_broken
from lensbench.checkpoints.source import INDEX
from lensbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file; `broken` takes its name when what is read holds NaN or Inf."""

    name: str
    stored: Any  # a slice of safetensors
    broken: list[str] = field(default_factory=list)

    def __getitem__(self, index: Any) -> Tensor:
        tensor: Tensor = self.stored[index]
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            self.broken.append(self.name)
        return tensor


def stored_tensors(folder: Path, broken: list[str]) -> dict[str, StoredTensor]:
    """The tensors of the checkpoint in `folder`, by name. Nothing but headers is read here."""
    from safetensors import safe_open

    files = [safe_open(folder / name, "pt", backend="pread") for name in _weight_files(folder)]
    return {
        name: StoredTensor(name, file.get_slice(name), broken)
        for file in files
        for name in file.keys()  # noqa: SIM118  not a dict
    }


def _weight_files(folder: Path) -> list[str]:
    """The files that transformers loads: those of the index, or the one of the usual name."""
    index = folder / INDEX
    if not index.is_file():
        return ["model.safetensors"]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def open_quantised(
    folder: Path,
    dtype: torch.dtype,
    quantisation: Any,
    device: str,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A checkpoint quantised tensor by tensor while it loads, at little more than its final size.

    Raises ModelError when a weight holds NaN or Inf, which quantising would turn into ordinary
    numbers, or when a weight is missing.
    """
    config = open_config(folder, trust_remote_code=trust_remote_code)
    broken: list[str] = []
    hf, found = type(empty_model(config, trust_remote_code)).from_pretrained(
        None,
        config=config,
        state_dict=stored_tensors(folder, broken),
        generation_config=_generation_config(folder, config),
        dtype=dtype,
        device_map=device,
        quantization_config=quantisation,
        output_loading_info=True,
    )
    refuse_broken(broken, str(folder), "The file is damaged: fetch it again, or save it again.")
    if found["missing_keys"]:
        names = ", ".join(sorted(found["missing_keys"])[:5])
        raise ModelError(f"{folder}: weights are missing: {names}. Fetch the model again.")
    hf.name_or_path = hf.config.name_or_path = str(folder)
    return hf


def _generation_config(folder: Path, config: Any) -> Any:
    """How the checkpoint wants to be sampled, which also names the tokens that end a response."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig.from_model_config(config)
