"""A model's outline: its shapes and its tokenizer, without its weights, in a second or two."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from lensbench.checkpoints.devices import DTYPES, pick_dtype
from lensbench.checkpoints.open import empty_model, open_config, open_tokenizer, quiet
from lensbench.checkpoints.placement import Placement
from lensbench.checkpoints.ref import ModelRef
from lensbench.checkpoints.weights import placed
from lensbench.errors import ModelError
from lensbench.models.adapted import with_bits
from lensbench.models.bridge import without_weights
from lensbench.models.model import LensModel
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.quantized.precision import half_precision


def outline(ref: ModelRef, dtype: str | None = None, device: str | None = None) -> LensModel:
    """The model as `load_model` would load it, without a weight: it takes next to no memory.

    What is planned of it (prompts, batches, sites) is planned by the same functions as of the
    loaded model; it gives no number.

    Raises ModelError for a model that is not here, that TransformerLens cannot wrap or for which
    there is no room on the devices that it is spread over; and what `open_config` raises.
    """
    if not ref.plain:  # a number format given twice is refused, as loading does
        with_bits(ref, dtype, device)
    folder, places = ref.folder, Placement.of(device)
    where = places.main
    hf_model = empty_model(open_config(folder))
    number_format = held_in(ref, dtype, where, int(hf_model.num_parameters()))
    placed(places, hf_model, number_format, _packed(ref), folder)
    with quiet():
        tokenizer = open_tokenizer(folder)
        hf_model = hf_model.to(number_format).eval()
    wrap = partial(without_weights, hf_model, tokenizer, str(ref), ref.located.source, ref, where)
    try:
        return wrap()
    except ModelError as error:
        if not isinstance(error.__cause__, NotImplementedError):
            raise
    # TransformerLens takes a joint q/k/v apart, which it does of no tensor without numbers.
    _fill(hf_model)
    return wrap()


def plain_outline(ref: ModelRef, device: str | None = None) -> AdaptedModel:
    """The model as `load_quantized` would load it, without a weight.

    Raises ModelError for a model that is not here, and what `open_config` raises.
    """
    whole, folder = with_bits(ref, None, device), ref.folder
    hf_model, places = empty_model(open_config(folder)), Placement.of(device)
    placed(places, hf_model, held_in(whole, None, places.main, 0), _packed(whole), folder)
    with quiet():
        tokenizer = open_tokenizer(folder)
    return AdaptedModel(replace(whole, adapter=None), folder, hf_model, tokenizer, {})


def _packed(ref: ModelRef) -> int | None:
    """Bits of its linear layers where they are packed."""
    return ref.bits if ref.bits in (8, 4) else None


def _fill(model: nn.Module) -> None:
    """Put one 0 for all numbers in place of tensors that have none; each takes a few bytes."""
    for module in model.modules():
        for name, own in module.named_parameters(recurse=False):
            zeros = torch.zeros((), dtype=own.dtype).expand(own.shape)
            setattr(module, name, nn.Parameter(zeros, requires_grad=False))
        for name, held in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros((), dtype=held.dtype).expand(held.shape))


def held_in(ref: ModelRef, dtype: str | None, device: str | None, n_params: int) -> torch.dtype:
    """The number format of what is not packed into bits: the head, and what is computed."""
    where = Placement.of(device).main
    if ref.bits is None:
        return pick_dtype(dtype, where, n_params)
    if ref.bits == 32:
        return DTYPES["float32"]
    return half_precision(where)
