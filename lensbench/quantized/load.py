"""Loading a model at 8, 4, 16 or 32 bits, with or without an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from lensbench.checkpoints.devices import pick_device
from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.open import open_config, open_tokenizer, open_weights, quiet
from lensbench.checkpoints.source import locate, public_source
from lensbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Bits = Literal[4, 8, 16, 32]


@dataclass(frozen=True, eq=False)
class AdaptedModel:
    """A plain Hugging Face model (perhaps quantised, perhaps with an adapter), ready to generate.

    `hf` is a PeftModel when there is an adapter; `base` is the transformers model underneath.
    """

    name: str
    folder: Path
    bits: Bits
    hf: Any
    tokenizer: PreTrainedTokenizerBase
    file_hashes: dict[str, str]
    adapter: Path | None = None
    int8_threshold: float | None = None  # LLM.int8's outlier threshold; None unless bits is 8

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model, without PEFT's wrapper (the adapter's layers stay inside it)."""
        return self.hf.get_base_model() if self.adapter is not None else self.hf

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.hf.parameters()).device

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.base.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.base.config.hidden_size)

    @property
    def n_ctx(self) -> int:
        """Tokens that prompt and response may take together."""
        return int(self.base.config.max_position_embeddings)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, first to last."""
        lists = [
            module
            for module in self.base.base_model.modules()
            if isinstance(module, nn.ModuleList) and len(module) == self.n_layers
        ]
        return lists[0]

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights and buffers take in memory."""
        return int(self.base.get_memory_footprint())

    def facts(self) -> dict[str, Any]:
        """The model's part of a manifest."""
        return {
            "name": self.name,
            "source": public_source(self.name, str(self.folder)),
            "model_type": self.base.config.model_type,
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "bits": self.bits,
            "int8_threshold": self.int8_threshold,
            "adapter": self.adapter.name if self.adapter else None,
            "dtype": str(self.base.dtype).removeprefix("torch."),
            "device": self.device.type,
            **self.file_hashes,
        }


def load_quantized(
    name_or_folder: str | Path,
    bits: Bits = 8,
    adapter: str | Path | None = None,
    device: str | None = None,
    int8_threshold: float = 6.0,
) -> AdaptedModel:
    """Load a model for inference, its linear layers in `bits` bits.

    8 is LLM.int8 (Dettmers et al. 2022), 4 is double-quantised nf4 (Dettmers et al. 2023), both by
    bitsandbytes; 16 is bfloat16 and 32 float32.

    Raises:
        ModelError: unknown name, not pulled, no bitsandbytes for this device, an adapter that was
            trained on another base.
        InputProblems: everything that is wrong with a model folder, at once.
    """
    located = locate(str(name_or_folder))
    folder = located.require_folder()
    where = pick_device(device)
    open_config(folder)  # refuses a field whose effect nobody has checked
    dtype = torch.float32 if bits == 32 else torch.bfloat16
    with quiet():
        hf = open_weights(folder, dtype, device_map=where, **_quantisation(bits, int8_threshold))
        tokenizer = open_tokenizer(folder)
    files = hashes(folder)
    if adapter is not None:
        from lensbench.quantized.adapter import attach

        hf = attach(hf, Path(adapter), files["weights_sha256"])
    return AdaptedModel(
        name=located.name,
        folder=folder,
        bits=bits,
        hf=hf.eval(),
        tokenizer=tokenizer,
        file_hashes=files,
        adapter=Path(adapter) if adapter is not None else None,
        int8_threshold=int8_threshold if bits == 8 else None,
    )


def _quantisation(bits: Bits, int8_threshold: float) -> dict[str, Any]:
    """Arguments of `from_pretrained`. nf4 without double quantisation corrupts itself on a CPU."""
    if bits not in (4, 8, 16, 32):
        raise ModelError(f"{bits} bits are not known. Give 4, 8, 16 or 32.")
    if bits in (16, 32):
        return {}
    from transformers import BitsAndBytesConfig

    if bits == 8:
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=int8_threshold)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return {"quantization_config": config}
