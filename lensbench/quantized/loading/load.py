"""Loading a model at 8, 4, 16 or 32 bits, with or without an adapter."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lensbench.checkpoints.devices import pick_device
from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.open import (
    count_parameters,
    open_config,
    open_tokenizer,
    open_weights,
    quiet,
    require_finite,
)
from lensbench.checkpoints.pull import convert_gguf
from lensbench.checkpoints.ref import Bits
from lensbench.checkpoints.source import gguf_file, locate, public_source
from lensbench.checkpoints.tensors import open_quantised
from lensbench.errors import ModelError
from lensbench.quantized.precision import (
    PRECISIONS,
    half_precision,
    is_linear,
    never_repack,
    quantised_types,
    require_precision,
    require_room,
    scales,
    sizes_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
        return int(self._text_config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self._text_config.hidden_size)

    @property
    def n_ctx(self) -> int:
        """Tokens that prompt and response may take together."""
        return int(self._text_config.max_position_embeddings)

    @property
    def n_params(self) -> int:
        """Parameters of the base, whatever their precision; a tied head counts once."""
        return count_parameters(self.base.config)

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
    def quantised_modules(self) -> int:
        """Linear layers in 8 or 4 bits; the head is never one of them."""
        return sum(isinstance(module, quantised_types(self.bits)) for module in self.base.modules())

    @property
    def weight_bytes(self) -> int:
        """Bytes that weights, quantisation scales and buffers take in memory, adapter included."""
        tensors = [*self.base.parameters(), *self.base.buffers()]
        for module in self.base.modules():
            if isinstance(module, quantised_types(self.bits)):
                tensors += scales(module)
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def _text_config(self) -> Any:
        """The language model's own part of the config, which some families nest."""
        return self.base.config.get_text_config()

    def facts(self) -> dict[str, Any]:
        """The model's part of a manifest."""
        return {
            "name": self.name,
            "source": public_source(self.name, str(self.folder)),
            "model_type": self.base.config.model_type,
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "n_params": self.n_params,
            "bits": self.bits,
            "int8_threshold": self.int8_threshold,
            "adapter": self.adapter.name if self.adapter else None,
            "quantised_modules": self.quantised_modules,
            "weight_bytes": self.weight_bytes,
            "dtype": str(self.base.dtype).removeprefix("torch."),
            "device": self.device.type,
            **self.file_hashes,
        }


def default_model() -> str:
    """The model taken where none is named: TinyLlama if it was pulled, else smollm2-135m.

    TinyLlama comes from the hub; the other one from the Python package index.
    """
    return "tinyllama" if locate("tinyllama").folder is not None else "smollm2-135m"


def load_quantized(
    name_or_folder: str | Path,
    bits: Bits = 8,
    adapter: str | Path | None = None,
    device: str | None = None,
    int8_threshold: float = 6.0,
    trust_remote_code: bool = False,
) -> AdaptedModel:
    """Load a model for inference, its linear layers in `bits` bits.

    8 is LLM.int8 (Dettmers et al. 2022), 4 is double-quantised nf4 (Dettmers et al. 2023), both by
    bitsandbytes; 16 is bfloat16 (float16 on an accelerator without it) and 32 float32. Embedding,
    head and norms are never quantised: they stay in 16 bits beside quantised layers.

    LLM.int8 keeps columns of activations above `int8_threshold` in 16 bits and picks them over the
    whole batch, so a prompt's output depends a little on its neighbours; 0 picks none.

    Raises:
        ModelError: unknown name, not pulled, too large (with the arithmetic), config fields that
            are not understood, a precision that this device cannot run (with what can), NaN or
            Inf in the weights, an adapter that was trained on another base.
        MissingExtraError: no bitsandbytes for 8 or 4 bits.
        InputProblems: everything that is wrong with a model folder, at once.
    """
    _require_settings(bits, int8_threshold)
    located = locate(str(name_or_folder))
    folder = located.require_folder()
    where = pick_device(device)
    config = open_config(folder, trust_remote_code=trust_remote_code)
    require_room(sizes_of(config, trust_remote_code), bits, where)
    require_precision(bits, where)
    with quiet():
        hf = _open(folder, located.name, bits, int8_threshold, where, trust_remote_code)
        tokenizer = open_tokenizer(folder, trust_remote_code)
    files = hashes(folder)
    if adapter is not None:
        from lensbench.quantized.adapters.adapter import attach

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


def _require_settings(bits: Bits, int8_threshold: float) -> None:
    if bits not in PRECISIONS:
        raise ModelError(f"{bits} bits are not known. Give 4, 8, 16 or 32.")
    if not 0 <= int8_threshold < float("inf"):
        raise ModelError(f"{int8_threshold} is no threshold. Give 0 (no outliers) or more.")


def _open(
    folder: Path, name: str, bits: Bits, int8_threshold: float, device: str, trust: bool
) -> PreTrainedModel:
    """The weights on `device`, all of them numbers.

    transformers quantises no GGUF file, so one is converted first, in a temporary folder.
    """
    dtype = torch.float32 if bits == 32 else half_precision(device)
    if bits in (16, 32):
        hf = open_weights(folder, dtype, trust).to(device)
    elif (gguf := gguf_file(folder)) is not None:
        with tempfile.TemporaryDirectory() as converted:
            convert_gguf(gguf, Path(converted))
            hf = _open(Path(converted), name, bits, int8_threshold, device, trust)
        hf.name_or_path = hf.config.name_or_path = str(folder)
    else:
        settings = _quantisation(bits, int8_threshold, dtype)
        hf = open_quantised(folder, dtype, settings, device, trust)
        _require_quantised(hf, bits, name)
        never_repack(hf)
    require_finite(hf, name)
    return hf


def _quantisation(bits: Bits, int8_threshold: float, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=float(int8_threshold))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _require_quantised(hf: PreTrainedModel, bits: Bits, name: str) -> None:
    """All linear layers but the head are quantised, and the head is not."""
    kinds, head = quantised_types(bits), hf.get_output_embeddings()
    left = [m for m in hf.modules() if is_linear(m) and m is not head and not isinstance(m, kinds)]
    if left or isinstance(head, kinds):
        what = f"passed over {len(left)} layers" if left else "quantised the head"
        raise ModelError(f"{name}: bitsandbytes {what}. Use --bits 16, or another model.")
