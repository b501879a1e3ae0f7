"""Opening a checkpoint's weights, in the one place for every path: all of them, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lensbench.checkpoints.gguf import gguf_config, require_all_tensors, unreadable
from lensbench.checkpoints.multimodal import empty_whole, text_model
from lensbench.checkpoints.open import COPY, empty_model, whole_config
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
from lensbench.checkpoints.stored.tensors import StoredTensor, stored_tensors
from lensbench.errors import ModelError, first_line, refused_by_library

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def open_weights(
    folder: Path,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    *,
    quantisation: Any = None,
    device: str | None = None,
) -> PreTrainedModel:
    """The text model in `folder`, tensor by tensor, at little more than its final size.

    The weights go straight into `dtype`, or are quantised while they load; never from a pickle,
    and with no adapter that lies beside them.

    Raises:
        InputProblems: index and shards disagree, or there are two sets of weights.
        ModelError: a weight is missing, unused, of another shape, stored twice with different
            values, or holds NaN or Inf, which quantising would turn into ordinary numbers, or
            numbers beyond the range of `dtype`.
    """
    gguf = gguf_file(folder)
    if gguf is not None:
        return open_gguf(gguf, dtype)
    config = whole_config(folder, trust_remote_code)
    empty = empty_whole(config, trust_remote_code)
    tied = dict(empty.all_tied_weights_keys)
    # bitsandbytes takes what becomes int8 through float16.
    through = torch.float16 if getattr(quantisation, "load_in_8bit", False) else dtype
    seen = Seen(through)
    stored = stored_tensors(folder, seen, dtype if quantisation is None else None)
    if quantisation is not None:
        _rehearse(empty, folder, config, stored, dtype)
    hf, found = _loaded(
        empty,
        folder,
        config=config,
        state_dict=stored,
        generation_config=_generation_config(folder, config),
        dtype=dtype,
        device_map=device,
        quantization_config=quantisation,
    )
    limits = {name for name, _ in hf.named_buffers()}  # infinite where there is none (Gemma 4)
    broken = [name for name in seen.broken if name not in limits]
    refuse_broken(broken, str(folder), "The file is damaged: fetch it again, or save it again.")
    give_back()
    require_complete(hf, found, stored, tied, folder)
    require_in_range(seen, hf, quantisation is not None, str(folder))
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


def _generation_config(folder: Path, config: Any) -> Any:
    """How the checkpoint wants to be sampled, which also names the tokens that end a response."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        with refused_by_library(f"{folder / 'generation_config.json'} cannot be read", COPY):
            return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig.from_model_config(config)


def open_gguf(gguf: Path, dtype: torch.dtype) -> PreTrainedModel:
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
    return hf
