"""Opening a checkpoint's weights, in the one place for every path: all of them, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lensbench.checkpoints.gguf import gguf_config, require_all_tensors, unreadable
from lensbench.checkpoints.multimodal import empty_whole, text_model
from lensbench.checkpoints.open import COPY, empty_model, text_config, whole_config
from lensbench.checkpoints.placement import DISK, Place, Placement, Plan
from lensbench.checkpoints.ref import ADAPTER_CONFIG
from lensbench.checkpoints.source import gguf_file
from lensbench.checkpoints.stored.complete import require_complete
from lensbench.checkpoints.stored.finite import (
    Seen,
    refuse_broken,
    require_finite,
    require_in_range,
)
from lensbench.checkpoints.stored.heap import give_back
from lensbench.checkpoints.stored.offload import is_offloaded, keep_small, offload_folder
from lensbench.checkpoints.stored.tensors import StoredTensor, stored_tensors
from lensbench.errors import ModelError, first_line, refused_by_library

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU = Placement((Place("cpu"),))
_NF4 = 0.53  # bytes of a weight, its scales included


def open_weights(
    folder: Path,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    *,
    quantisation: Any = None,
    where: Placement | None = None,
) -> PreTrainedModel:
    """The text model in `folder`, tensor by tensor, at little more than its final size.

    The weights go straight into `dtype`, or are quantised while they load; never from a pickle,
    and with no adapter that lies beside them. They lie `where` it says, on a CPU by default.

    Raises:
        InputProblems: index and shards disagree, or there are two sets of weights.
        ModelError: a weight is missing, unused, of another shape, stored twice with different
            values, or holds NaN or Inf, which quantising would turn into ordinary numbers, or
            numbers beyond the range of `dtype`; or there is no room for all of them `where`.
    """
    where = where or CPU
    gguf = gguf_file(folder)
    if gguf is not None:
        return open_gguf(gguf, dtype, where)
    config = whole_config(folder, trust_remote_code)
    empty = empty_whole(config, trust_remote_code)
    tied = dict(empty.all_tied_weights_keys)
    # bitsandbytes takes what becomes int8 through float16.
    through = torch.float16 if getattr(quantisation, "load_in_8bit", False) else dtype
    seen = Seen(through)
    stored = stored_tensors(folder, seen, dtype if quantisation is None else None)
    if quantisation is not None:
        _rehearse(empty, folder, config, stored, dtype)
    hf, found = _loaded_where(
        where,
        empty,
        folder,
        config=config,
        state_dict=stored,
        generation_config=_generation_config(folder, config),
        dtype=dtype,
        quantization_config=quantisation,
    )
    limits = {name for name, _ in hf.named_buffers()}  # infinite where there is none (Gemma 4)
    broken = [name for name in seen.broken if name not in limits]
    refuse_broken(broken, str(folder), "The file is damaged: fetch it again, or save it again.")
    give_back()
    require_complete(hf, found, stored, tied, folder)
    require_in_range(seen, hf, quantisation is not None or is_offloaded(hf), str(folder))
    hf.name_or_path = hf.config.name_or_path = str(folder)
    return text_model(hf)


def _rehearse(
    empty: PreTrainedModel,
    folder: Path,
    config: Any,
    stored: Mapping[str, StoredTensor],
    dtype: torch.dtype,
) -> None:
    """Load names and shapes alone: a quantised weight has no shape left that could be compared."""
    shapes = {name: _Shape(tensor.shape) for name, tensor in stored.items()}
    model, found = _loaded(
        empty, folder, config=config, state_dict=shapes, dtype=dtype, device_map="meta"
    )
    require_complete(model, found, {}, {}, folder)


@dataclass(frozen=True)
class _Shape:
    """A tensor without its numbers."""

    shape: tuple[int, ...]

    def __getitem__(self, _: Any) -> torch.Tensor:
        return torch.empty(self.shape, device="meta")


def _loaded(empty: PreTrainedModel, folder: Path, **how: Any) -> tuple[PreTrainedModel, Any]:
    """What the model's own class loads, and its report. No class that looks for adapters."""
    source = folder if "gguf_file" in how else None
    try:
        return type(empty).from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, **how
        )
    except RuntimeError as error:  # tensors that transformers joins into one do not fit together
        raise ModelError(
            f"{folder}: the weights do not fit the model that config.json describes: "
            f"{first_line(error)}. Fetch the model again, or save it again."
        ) from error


def _loaded_where(
    where: Placement, empty: PreTrainedModel, folder: Path, **how: Any
) -> tuple[PreTrainedModel, Any]:
    """The same on the devices that it belongs to; what is on disk is written anew, in its dtype."""
    quantisation = how["quantization_config"]
    packed = None if quantisation is None else 8 if quantisation.load_in_8bit else 4
    plan = placed(where, empty, how["dtype"], packed, folder)
    if plan is None and quantisation is None:
        hf, found = _loaded(empty, folder, **how)
        return hf.to(where.main), found
    if plan is None:
        return _loaded(empty, folder, device_map=where.main, **how)
    if plan.folder is None or DISK not in plan.where.values():
        hf, found = _loaded(empty, folder, device_map=plan.map, **how)
        keep_small(hf)
        return hf, found
    with offload_folder(plan.folder) as kept:
        hf, found = _loaded(empty, folder, device_map=plan.map, offload_folder=kept.path, **how)
        keep_small(hf)
        kept.keep_for(hf)
    return hf, found


def placed(
    where: Placement, empty: PreTrainedModel, dtype: torch.dtype, packed: int | None, folder: Path
) -> Plan | None:
    """Which module goes where, by its shape; None where all of it fits on one device.

    Args:
        packed: bits of its linear layers where they are packed, 8 or 4.

    Raises ModelError where there is no room, or the model cannot be taken apart.
    """
    plan = where.plan(empty, partial(_size, empty, dtype, packed))
    if plan is not None:
        _require_spreadable(plan, empty, packed is not None, folder)
    return plan


def _require_spreadable(plan: Plan, empty: PreTrainedModel, quantised: bool, folder: Path) -> None:
    """Raise ModelError for what cannot be taken apart, or kept elsewhere than it is computed."""
    if text_config(empty.config) is not empty.config:
        raise ModelError(
            f"{folder}: the text model of a multimodal one is made of its modules, and cannot be "
            "spread over devices. Name one device, or take a text-only model."
        )
    if quantised and plan.offloads:
        raise ModelError(
            f"{folder}: weights in 8 or 4 bits are packed for the device that computes with them, "
            "so that none can be kept in memory beside a GPU or on a disk. Name GPUs that hold "
            "all of them, or read it in 16 bits."
        )


def _size(empty: PreTrainedModel, dtype: torch.dtype, packed: int | None, module: nn.Module) -> int:
    """Bytes of the weights of a module and all beneath it; a tied one counts once."""
    linear = {8: 1.0, 4: _NF4, None: float(dtype.itemsize)}[packed]
    seen: dict[int, float] = {}
    for part in module.modules():
        own = linear if isinstance(part, nn.Linear) else float(dtype.itemsize)
        each = dtype.itemsize if part is empty.get_output_embeddings() else own
        for weight in part.parameters(recurse=False):
            seen.setdefault(id(weight), each * weight.numel())
    return int(sum(seen.values()))


def _generation_config(folder: Path, config: Any) -> Any:
    """How the checkpoint wants to be sampled, which also names the tokens that end a response."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        with refused_by_library(f"{folder / 'generation_config.json'} cannot be read", COPY):
            return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig.from_model_config(config)


def open_gguf(gguf: Path, dtype: torch.dtype, where: Placement | None = None) -> PreTrainedModel:
    """The model in a GGUF file, dequantised into `dtype`.

    Raises ModelError, with every key and tensor of the file that would be lost, or when an adapter
    lies beside it, which transformers would apply.
    """
    from transformers import GgufConfig

    folder = gguf.parent
    if (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{folder} holds a GGUF file and an adapter ({ADAPTER_CONFIG}). Keep the adapter in a "
            "folder of its own, and name both: FOLDER+ADAPTER."
        )
    config = gguf_config(gguf)
    empty = empty_model(config)
    require_all_tensors(gguf, empty)
    where = where or CPU
    if where.plan(empty, partial(_size, empty, dtype, None)) is not None:
        raise ModelError(
            f"{gguf} is dequantised as a whole and cannot be spread over devices. Name one device, "
            "or save it as safetensors first."
        )
    try:
        hf, found = _loaded(
            empty,
            folder,
            config=config,
            gguf_file=gguf.name,
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
            local_files_only=True,
        )
    except (ValueError, NotImplementedError) as error:  # a way to quantise that it does not know
        raise unreadable(gguf, error) from error
    give_back()
    require_complete(hf, found, {}, dict(empty.all_tied_weights_keys), gguf)
    require_finite(hf, str(gguf))
    return hf.to(where.main)
