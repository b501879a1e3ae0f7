"""Opening a checked folder with Hugging Face's own classes: config, weights, tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lensbench.checkpoints.config import check_config
from lensbench.checkpoints.source import gguf_file
from lensbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def open_config(
    folder: Path, allow_fields: Collection[str] = (), trust_remote_code: bool = False
) -> Any:
    """The model's config; ModelError when it holds a field whose effect nobody has checked."""
    from transformers import AutoConfig

    gguf = gguf_file(folder)
    if gguf is not None:
        return AutoConfig.from_pretrained(folder, gguf_file=gguf.name)
    check_config(folder, allow=allow_fields, trust_remote_code=trust_remote_code)
    return AutoConfig.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True
    )


def empty_model(config: Any, trust_remote_code: bool = False) -> PreTrainedModel:
    """The architecture with all its shapes and no weights: it takes no memory."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def count_parameters(config: Any, trust_remote_code: bool = False) -> int:
    """Parameters of the architecture, counted without allocating any."""
    return int(empty_model(config, trust_remote_code).num_parameters())


def open_weights(
    folder: Path, dtype: torch.dtype, trust_remote_code: bool = False, **how: Any
) -> PreTrainedModel:
    """Weights straight into `dtype`, at about 1x their size; never from a pickle.

    `how` goes to `from_pretrained` (a quantisation config, a device map).
    """
    from transformers import AutoModelForCausalLM

    gguf = gguf_file(folder)
    how |= {"gguf_file": gguf.name} if gguf is not None else {"use_safetensors": True}
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=trust_remote_code, local_files_only=True, **how
    )


def open_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights, or the one inside the GGUF file."""
    from transformers import AutoTokenizer

    gguf = gguf_file(folder)
    how = {} if gguf is None else {"gguf_file": gguf.name}
    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True, **how
    )


def require_finite(model: PreTrainedModel, name: str) -> None:
    """Raise ModelError naming the weights that hold NaN or Inf."""
    broken = [
        weight_name
        for weight_name, weight in model.named_parameters()
        if weight.is_floating_point() and not bool(weight.isfinite().all())
    ]
    refuse_broken(
        broken,
        name,
        f"Either they exceed the range of {model.dtype} (try bfloat16 or float32), or the file "
        "is damaged (fetch it again).",
    )


def refuse_broken(broken: list[str], name: str, remedy: str) -> None:
    """Raise ModelError when there are names of weights in `broken`."""
    if broken:
        shown = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        raise ModelError(f"{name}: NaN or Inf in the weights of {shown}. {remedy}")


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the libraries' progress bars and advice; their errors still come as exceptions."""
    import transformers

    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
