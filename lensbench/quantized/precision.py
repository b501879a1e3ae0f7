"""Precisions: the bytes that each one needs, and whether a device can run it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lensbench.checkpoints.config.shape import n_blocks, per_layer, width
from lensbench.checkpoints.devices import gb, pick_dtype
from lensbench.checkpoints.open import empty_model, quiet
from lensbench.checkpoints.placement import Placement, least_bytes, said_beside
from lensbench.checkpoints.ref import Bits
from lensbench.checkpoints.stored.heap import Heap
from lensbench.errors import ModelError, first_line, packages_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lensbench.checkpoints.families import Family

PRECISIONS: dict[Bits, str] = {32: "float32", 16: "bfloat16", 8: "int8", 4: "nf4"}
# Of one weight in a linear layer. nf4 stores a scale of one byte for 64 weights, and for 256 of
# these scales one of four bytes. LLM.int8's one scale a row is less than 1 % and left out.
_LINEAR_BYTES: dict[Bits, float] = {32: 4.0, 16: 2.0, 8: 1.0, 4: 0.5 + 1 / 64 + 4 / (64 * 256)}
# What quantising one weight holds for a moment beside what is stored of it, on a CPU: bitsandbytes
# makes float16 and float32 copies of a whole layer. Measured with version 0.50.2.
_CONVERTING_BYTES: dict[Bits, float] = {32: 0, 16: 0, 8: 10.0, 4: 14.3}
_LOADING = 40 << 20  # what loading holds besides: threads, tables, tensors on their way
_HEAD = 64  # numbers of a head, where nobody says how many
_HUGE = 10**12  # parameters: enough for `pick_dtype` to choose half precision

ALTERNATIVE = (
    "torchao's int8 weights run in plain PyTorch: pip install torchao, then "
    "AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.bfloat16, "
    "quantization_config=TorchAoConfig(Int8WeightOnlyConfig())). Or load it unquantised: --bits 16"
)


@dataclass(frozen=True)
class Shape:
    """What decides the memory that a pass through a model needs."""

    n_blocks: int
    d_model: int
    d_vocab: int
    d_inner: int  # of an MLP
    n_heads: int
    d_heads: int  # of the queries of all heads of a block


@dataclass(frozen=True)
class Sizes:
    """What decides the memory that a model needs. Quantisation touches linear layers only."""

    n_linear: int  # weights of linear layers, the head aside
    n_other: int  # embedding, head, norms, biases: in 16 bits at least
    n_cached: int  # numbers that the cache holds for a token: keys and values of all layers
    n_largest: int  # weights of the largest linear layer, the head aside
    shape: Shape
    stored_bytes: int = 2  # of a weight in the file

    def weight_bytes(self, bits: Bits) -> int:
        """Bytes of all weights; right to 1 % for layers that are at least 512 wide."""
        return int(self.n_linear * _LINEAR_BYTES[bits] + self.n_other * _other_bytes(bits))

    def loading_bytes(self, bits: Bits) -> int:
        """Bytes at the peak of loading, the program itself aside; within a tenth, on a CPU.

        All weights, and where they are quantised the largest layer as it is mapped and converted,
        and what was freed and is not given back yet (`Heap`).
        """
        if not _CONVERTING_BYTES[bits]:
            return self.weight_bytes(bits) + _LOADING
        layer = int(self.n_largest * (self.stored_bytes + _CONVERTING_BYTES[bits]))
        in_file = (self.n_linear + self.n_other) * self.stored_bytes
        return self.weight_bytes(bits) + layer + min(Heap(in_file).kept, in_file // 8)

    def needed(self, bits: Bits, device: str) -> int:
        """Bytes to load it: the peak on a CPU; of an accelerator the weights.

        What loading takes on an accelerator besides was not measured.
        """
        return self.loading_bytes(bits) if device == "cpu" else self.weight_bytes(bits)

    def cache_bytes(self, bits: Bits, n_tokens: int) -> int:
        """Bytes of keys and values for `n_tokens` tokens, counted over all rows of a batch."""
        return self.n_cached * n_tokens * _other_bytes(bits)


def _other_bytes(bits: Bits) -> int:
    return 4 if bits == 32 else 2


def sizes_of(config: Any, trust_remote_code: bool = False) -> Sizes:
    """Sizes of the architecture that `config` describes, without allocating any of it."""
    return sizes_in(empty_model(config, trust_remote_code), config)


def sizes_in(model: PreTrainedModel, config: Any) -> Sizes:
    """The same of a model that was made of `config`."""
    head = model.get_output_embeddings()
    linear = [
        int(module.weight.numel())
        for module in model.modules()
        if is_linear(module) and module is not head
    ]
    n_linear, stored = sum(linear), getattr(config, "dtype", None) or torch.float32
    return Sizes(
        n_linear,
        int(model.num_parameters()) - n_linear,
        cached_numbers(config),
        max(linear, default=0),
        _shape_of(config, max(linear, default=0)),
        stored.itemsize,
    )


def _shape_of(config: Any, n_largest: int) -> Shape:
    """The largest linear layer of a block is of its MLP."""
    text = config.get_text_config(decoder=True)
    d_model = width(config)
    heads = per_layer(config, "num_attention_heads") or 1
    d_heads = heads * (per_layer(config, "head_dim") or d_model // heads)
    d_inner = n_largest // d_model
    return Shape(n_blocks(config), d_model, int(text.vocab_size), d_inner, heads, d_heads)


def cached_numbers(config: Any) -> int:
    """How many numbers the cache holds for a token: keys and values of all layers.

    A state space keeps none: its state is as large for one token as for many.
    """
    n_heads = per_layer(config, "num_attention_heads")
    if not n_heads:
        return 0
    n_cached = per_layer(config, "num_key_value_heads") or n_heads
    d_head = per_layer(config, "head_dim") or width(config) // n_heads
    return 2 * n_blocks(config) * n_cached * d_head


def sizes_of_family(family: Family) -> Sizes:
    """The same from a row of the table, right to 2 %: learned positions count as linear.

    Of a block's linear layers three of one size take all but the attention's four; files are taken
    to be in 16 bits.
    """
    n_other = family.d_vocab * family.d_model * (1 if family.tied else 2)
    n_linear, width = family.n_params - n_other, family.d_model
    in_attention = 2 * width * (width + family.d_kv)
    n_largest = (n_linear // family.n_layers - in_attention) // 3
    heads = max(width // _HEAD, 1)
    shape = Shape(family.n_layers, width, family.d_vocab, n_largest // width, heads, width)
    return Sizes(n_linear, n_other, 2 * family.n_layers * family.d_kv, n_largest, shape)


def is_linear(module: nn.Module) -> bool:
    """Whether quantisation applies to this kind of layer. GPT-2 calls its own Conv1D."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def half_precision(device: str) -> torch.dtype:
    """bfloat16; float16 on an accelerator without it. On a CPU float16 is slower than float32."""
    return torch.bfloat16 if device == "cpu" else pick_dtype(None, device, _HUGE)


def require_room(
    sizes: Sizes,
    bits: Bits,
    where: Placement,
    beside: Callable[[Sizes, Bits], int] = lambda sizes, bits: 0,
) -> None:
    """Raise ModelError, with the sum, where a model and its use exceed the memory that is there.

    `Sizes.needed` is counted, and with the weights what is held `beside` them, as `least_bytes` has
    it; of a model on several devices the weights, over all of them.
    """

    def count(own: Bits) -> int:
        used = least_bytes(sizes.weight_bytes(own), beside(sizes, own), where)
        return used if where.spread else max(used, sizes.needed(own, where.main))

    available = where.room
    if count(bits) <= available:
        return
    smaller = [b for b in PRECISIONS if b < bits and count(b) <= available]
    way_out = "Take a smaller model (`lensbench models`) or a machine with more memory."
    if smaller:
        fits = smaller[0]
        way_out = f"Try --bits {fits} ({gb(count(fits))}), or NAME@{fits} "
        way_out += "where there is no such option, or the name says its bits."
    weights = sizes.weight_bytes(bits)
    more = said_beside(beside(sizes, bits), where)
    raise ModelError(
        f"{sizes.n_linear:.3g} weights x {_LINEAR_BYTES[bits]:.3g} bytes ({PRECISIONS[bits]}) + "
        f"{sizes.n_other:.3g} x {_other_bytes(bits)} bytes = {gb(weights)}, "
        f"{gb(sizes.needed(bits, where.main) - weights)} while they load{more}, but "
        f"{where.rooms()} are available. {way_out}"
    )


def require_precision(bits: Bits, device: str) -> None:
    """Raise when this precision does not run on `device`, with what does.

    Raises MissingExtraError without bitsandbytes, and ModelError where it does not work.
    """
    reason = obstacle(bits, device)
    if reason is not None:
        raise ModelError(
            f"bitsandbytes cannot run {PRECISIONS[bits]} on {device}: {reason}. {ALTERNATIVE}."
        )


def obstacle(bits: Bits, device: str) -> str | None:
    """Why linear layers of this precision cannot run on `device`, or None when they can.

    A tiny layer is quantised and its output compared with the float one, for a library that loads
    may still lack this device's kernels, or get them wrong.
    """
    if bits in (16, 32):
        return None
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))  # [batch, d_in]
    try:
        with quiet(), torch.inference_mode():
            layer = _quantised(weight, bits).to(device).eval()
            never_repack(layer)
            outputs = layer(vectors.to(device, half_precision(device))).float().cpu()
    except (RuntimeError, ImportError, OSError, ValueError, AttributeError) as error:
        return first_line(error)
    wanted = vectors @ weight.T
    wrong = float((outputs - wanted).norm() / wanted.norm())
    return None if wrong < 0.25 else f"its results are off by {wrong:.0%}"  # nf4 itself: 9 %


def _quantised(weight: Float[Tensor, "64 64"], bits: Bits) -> nn.Module:
    """A layer with these weights, quantised when it is moved to its device."""
    layers = require_bitsandbytes().nn
    layer: nn.Module
    with torch.random.fork_rng(devices=[]):  # new layers draw weights; nobody's seed may notice
        if bits == 8:
            layer = layers.Linear8bitLt(64, 64, False, has_fp16_weights=False, threshold=6.0)
        else:
            layer = layers.Linear4bit(64, 64, False, quant_type="nf4")
    layer.load_state_dict({"weight": weight})
    return layer


def require_bitsandbytes() -> Any:
    """The module; MissingExtraError when it or what it needs is not installed."""
    with packages_of("quant", "accelerate", "bitsandbytes"):
        import accelerate  # noqa: F401
        import bitsandbytes
    # LLM.int8 casts its inputs to float16 and says so at every layer of every forward pass.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return bitsandbytes


def quantised_types(bits: Bits) -> tuple[type[nn.Module], ...]:
    """The class of the quantised layers; none for 16 and 32 bits, which need no bitsandbytes."""
    if bits in (16, 32):
        return ()
    layers = require_bitsandbytes().nn
    return (layers.Linear8bitLt,) if bits == 8 else (layers.Linear4bit,)


def scales(layer: Any) -> list[Tensor]:
    """What a quantised layer keeps besides its weights, wherever the library puts it."""
    state = getattr(layer.weight, "quant_state", None)
    if state is None:  # int8; the first forward pass moves the scales from weight to state
        kept = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        return [kept]
    nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
    return [state.absmax, state.code, *nested]


def never_repack(model: nn.Module) -> None:
    """Keep nf4 weights as they are, on every CPU.

    On a CPU with AVX512-BF16, the first forward pass repacks them for a faster kernel, and
    state_dict(), which saving or loading an adapter calls, unpacks them with other scales: 0.4 %
    off with double quantisation, ruined without it. The kernel also refuses layers whose width is
    no multiple of 64.
    """
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def keep_scales(model: nn.Module) -> None:
    """Leave the scales of int8 weights with the weights, where PEFT looks for them.

    bitsandbytes takes them off in the first forward pass, and DoRA copies the weight in every one:
    on a CPU its copy would have no scales.
    """

    def put_back(layer: Any, *_: Any) -> None:
        layer.weight.SCB = layer.state.SCB

    for module in model.modules():
        if isinstance(module, quantised_types(8)):
            module.register_forward_hook(put_back)
