"""Loading a model at 8, 4, 16 or 32 bits, with or without an adapter."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from lensbench.again import by_name, require_together
from lensbench.checkpoints.blocks import block_list
from lensbench.checkpoints.config.shape import (
    attention_reach,
    context_length,
    n_blocks,
    rope_switch,
    say_keys_chosen,
    width,
)
from lensbench.checkpoints.devices import device_facts, require_float32
from lensbench.checkpoints.open import (
    count_parameters,
    open_config,
    open_tokenizer,
    quiet,
)
from lensbench.checkpoints.placement import Placement, placed_facts
from lensbench.checkpoints.pull import convert_gguf
from lensbench.checkpoints.ref import Bits, ModelRef
from lensbench.checkpoints.source import gguf_file
from lensbench.checkpoints.stored.offload import is_offloaded
from lensbench.checkpoints.weights import open_weights
from lensbench.errors import ModelError
from lensbench.quantized.loading.measured import precisions, require_bits
from lensbench.quantized.peaks import Use
from lensbench.quantized.precision import (
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

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AdaptedModel:
    """A plain Hugging Face model (perhaps quantised, perhaps with an adapter), ready to generate.

    `hf` is a PeftModel when there is an adapter; `base` is the transformers model underneath.
    `weights` are the facts of `ref` as they were when the model was loaded.
    """

    ref: ModelRef
    folder: Path
    hf: Any
    tokenizer: PreTrainedTokenizerBase
    weights: dict[str, Any]

    @property
    def bits(self) -> Bits:
        """Bits of a weight in its linear layers."""
        return cast(Bits, self.ref.bits)

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model, without PEFT's wrapper (the adapter's layers stay inside it)."""
        return self.hf.get_base_model() if self.ref.adapter is not None else self.hf

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.hf.parameters()).device

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return n_blocks(self.base.config)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return width(self.base.config)

    @property
    def d_vocab(self) -> int:
        """Tokens that the embedding has a row for; a tokenizer may have more."""
        return int(self.base.config.get_text_config(decoder=True).vocab_size)

    @property
    def n_ctx(self) -> int:
        """Tokens that prompt and response may take together."""
        return context_length(self.base.config)

    @property
    def rope_switch(self) -> int | None:
        """Tokens beyond which a sequence is rotated otherwise, where there is such a length."""
        return rope_switch(self.base.config)

    @property
    def reach(self) -> int | None:
        """Tokens that every block looks at all of; None where there is no such limit."""
        return attention_reach(self.base.config)

    @property
    def n_params(self) -> int:
        """Parameters of the base, whatever their precision; a tied head counts once."""
        return count_parameters(self.base.config)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, first to last."""
        return block_list(self.base)[1]

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

    def facts(self) -> dict[str, Any]:
        """The model's part of a manifest."""
        return {
            "name": self.ref.name,
            "source": self.ref.located.source,
            "model_type": self.base.config.model_type,
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "n_params": self.n_params,
            "quantised_modules": self.quantised_modules,
            "precisions": precisions(self.base, self.bits),
            "weight_bytes": self.weight_bytes,
            "dtype": str(self.base.dtype).removeprefix("torch."),
            **device_facts(self.device, self.base.parameters()),
            **placed_facts(self.base),
            **self.weights,
        }

    def identity(self) -> dict[str, Any]:
        """Its facts: the hashes of its files are among them."""
        return self.facts()

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process the model is loaded anew: see `again.py`."""
        require_together(self.ref.name, self.hf.parameters())
        given = {"model": self.ref, "device": self.device.type}
        return by_name(load_quantized, given, self.identity())

    def __repr__(self) -> str:
        return (
            f"AdaptedModel({self.ref.name}: {self.ref.precision}, {self.n_layers} layers x "
            f"{self.d_model}, {str(self.base.dtype).removeprefix('torch.')} on {self.device})"
        )


def load_quantized(
    model: str | Path | ModelRef | AdaptedModel,
    bits: Bits | None = None,
    adapter: str | Path | None = None,
    device: str | None = None,
    int8_threshold: float | None = None,
    trust_remote_code: bool = False,
) -> AdaptedModel:
    """Load a model for inference, its linear layers in so many bits.

    `model` is a `ModelRef` or NAME[@BITS[:THRESHOLD]][+ADAPTER], of which the arguments may say a
    part instead; one that is loaded as they say comes back. 8 bits (the default) is LLM.int8
    (Dettmers et al. 2022), 4 is double-quantised nf4 (Dettmers et al. 2023), both by bitsandbytes;
    16 is bfloat16 (float16 on an accelerator without it) and 32 float32. Embedding, head and norms
    are never quantised: they stay in 16 bits beside quantised layers.

    LLM.int8 keeps columns of activations above `int8_threshold` (6 by default) in 16 bits and picks
    them over the whole batch, so a prompt's output depends a little on its neighbours; 0 picks
    none.

    Raises:
        InputProblems: everything that is wrong with the name and the arguments, or with a model
            folder, at once.
        ModelError: unknown name, not pulled, too large (with the arithmetic), config fields that
            are not understood, a precision that this device cannot run (with what can), NaN or
            Inf in the weights, an adapter that was trained on another base.
        MissingExtraError: no bitsandbytes for 8 or 4 bits.
    """
    ref = ModelRef.of(
        model, bits=bits, int8_threshold=int8_threshold, adapter=adapter, use="generation"
    )
    if isinstance(model, AdaptedModel):
        return model
    folder, precision = ref.folder, cast(Bits, ref.bits)
    ref.say_what_lies_beside()
    where = Placement.of(device)
    require_loadable(ref, device, trust_remote_code)
    require_precision(precision, where.main)
    require_float32(torch.device(where.main))
    with quiet():
        hf = _open(folder, ref, where, trust_remote_code)
        tokenizer = open_tokenizer(folder, trust_remote_code)
    say_keys_chosen(ref.name, hf.config)
    weights = ref.facts()
    if ref.adapter is not None:
        hf = _attached(hf, ref, weights, trust_remote_code)
    if precision in (8, 4):
        shares = _in_words(precisions(hf, precision))
        _log.info("%s: %s; of the weights %s", ref.name, ref.precision, shares)
    return AdaptedModel(ref, folder, hf.eval(), tokenizer, weights)


def require_loadable(
    ref: ModelRef, device: str | None, trust_remote_code: bool = False, use: Use | None = None
) -> None:
    """Raise ModelError, with the sum, where a model is too large to load; no weight is read.

    Or, with a `use`, to be used so.
    """
    config = open_config(ref.folder, trust_remote_code=trust_remote_code)
    sizes = sizes_of(config, trust_remote_code)
    beside = {} if use is None else {"beside": use.beside}
    require_room(sizes, cast(Bits, ref.bits), Placement.of(device), **beside)


def with_adapter(model: AdaptedModel, adapter: Path) -> AdaptedModel:
    """A loaded base with the adapter in a folder on it, in place, as if both were loaded so.

    Raises ModelError as `attach`.
    """
    ref = replace(model.ref, adapter=adapter)
    weights = ref.facts()
    hf = _attached(model.hf, ref, weights, trust=False)
    return replace(model, ref=ref, hf=hf.eval(), weights=weights)


def _attached(hf: PreTrainedModel, ref: ModelRef, weights: Mapping[str, Any], trust: bool) -> Any:
    """The model with the adapter that its name says."""
    from lensbench.quantized.adapters.adapter import attach

    if is_offloaded(hf):
        raise ModelError(
            f"{ref}: an adapter's layers lie beside the weights in memory, and those of this model "
            "are read from elsewhere. Merge it (`lensbench adapters merge`) and name the result."
        )

    def stored() -> nn.Module:
        config = open_config(ref.folder, trust_remote_code=trust)
        return open_weights(ref.folder, config.dtype or torch.float32)

    base = None if ref.bits == 32 else stored
    adapter = cast(Path, ref.adapter)
    return attach(hf, adapter, weights["weights_sha256"], base, weights["config_sha256"])


def _in_words(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Which share of the weights is in which number format."""
    return ", ".join(f"{own['share']:.1%} are in {form}" for form, own in found.items())


def _open(folder: Path, ref: ModelRef, where: Placement, trust: bool) -> PreTrainedModel:
    """The weights `where` they belong, all of them numbers.

    transformers quantises no GGUF file, so one is converted first, in a temporary folder.
    """
    dtype = torch.float32 if ref.bits == 32 else half_precision(where.main)
    if ref.bits in (16, 32):
        hf = open_weights(folder, dtype, trust, where=where)
    elif (gguf := gguf_file(folder)) is not None:
        with tempfile.TemporaryDirectory() as converted:
            convert_gguf(gguf, Path(converted))
            hf = _open(Path(converted), ref, where, trust)
        hf.name_or_path = hf.config.name_or_path = str(folder)
    else:
        settings = _quantisation(ref, dtype)
        hf = open_weights(folder, dtype, trust, quantisation=settings, where=where)
        _require_quantised(hf, ref)
        never_repack(hf)
    return hf


def _quantisation(ref: ModelRef, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if ref.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=ref.int8_threshold)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _require_quantised(hf: PreTrainedModel, ref: ModelRef) -> None:
    """All linear layers but the head are quantised, and the head is not."""
    kinds, head = quantised_types(cast(Bits, ref.bits)), hf.get_output_embeddings()
    left = [m for m in hf.modules() if is_linear(m) and m is not head and not isinstance(m, kinds)]
    if left or isinstance(head, kinds):
        what = f"passed over {len(left)} layers" if left else "quantised the head"
        raise ModelError(f"{ref.name}: bitsandbytes {what}. Use --bits 16, or another model.")
    require_bits(hf, cast(Bits, ref.bits), ref.name)
