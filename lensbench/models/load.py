"""Loading: a name, a folder or a model object becomes a LensModel, or a reason why it cannot."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lensbench.errors import ModelError
from lensbench.models.config import check_config
from lensbench.models.devices import DTYPES, pick_device, pick_dtype, require_fit
from lensbench.models.model import LensModel
from lensbench.models.readout import readout_of
from lensbench.models.source import Located, gguf_file, locate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    model: str | Path | Any,
    *,
    dtype: str | None = None,
    device: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str | None = None,
    allow_fields: Collection[str] = (),
    trust_remote_code: bool = False,
) -> LensModel:
    """Load a causal language model for the lens.

    Args:
        model: an alias (`smollm2-135m`), a hub name that was pulled, a local folder, a Hugging
            Face model object, or a TransformerLens model (TransformerBridge; HookedTransformer
            on TransformerLens 3.9). A Hugging Face object is wrapped in place: save it before,
            not after.
        dtype: "float32", "bfloat16" or "float16"; by default float32 on a CPU and for models of
            up to 2e9 parameters, half precision for larger ones on an accelerator.
        device: "cpu", "cuda", "cuda:1", "mps"; by default the first there is of cuda, mps, cpu.
        tokenizer: needed with a model object only.
        allow_fields: config fields unknown to lensbench that you know to be harmless.
        trust_remote_code: run code that came with the weights. Off unless you ask.

    Raises:
        ModelError: unknown name (with the nearest aliases), not pulled, too large (with the
            arithmetic), config fields that are not understood, NaN or Inf in the weights.
        InputProblems: everything that is wrong with a model folder, at once.
    """
    if not isinstance(model, str | Path):
        return _wrap_object(model, tokenizer, name)
    located = locate(str(model))
    folder = located.require_folder()
    config = _config(folder, allow_fields, trust_remote_code)
    where = pick_device(device)
    n_params = _count_parameters(config, trust_remote_code)
    number_format = pick_dtype(dtype, where, n_params)
    require_fit(n_params, number_format, where)
    with _quiet():
        hf_model = _load_weights(folder, number_format, where, trust_remote_code)
        tokenizer = tokenizer or _load_tokenizer(folder, trust_remote_code)
    _require_finite(hf_model, located)
    return _bridged(hf_model, tokenizer, name or located.name, str(folder), folder)


def _config(folder: Path, allow_fields: Collection[str], trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    gguf = gguf_file(folder)
    if gguf is not None:
        return AutoConfig.from_pretrained(folder, gguf_file=gguf.name)
    check_config(folder, allow=allow_fields, trust_remote_code=trust_remote_code)
    return AutoConfig.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True
    )


def _count_parameters(config: Any, trust_remote_code: bool) -> int:
    """Parameters of the architecture, counted without allocating any."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return int(empty.num_parameters())


def _load_weights(
    folder: Path, dtype: torch.dtype, device: str, trust_remote_code: bool
) -> PreTrainedModel:
    """Weights straight into `dtype`, at about 1x their size; never from a pickle."""
    from transformers import AutoModelForCausalLM

    gguf = gguf_file(folder)
    how = {"gguf_file": gguf.name} if gguf is not None else {"use_safetensors": True}
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        local_files_only=True,
        **how,
    )
    return model.to(device).eval()


def _load_tokenizer(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    gguf = gguf_file(folder)
    how = {} if gguf is None else {"gguf_file": gguf.name}
    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True, **how
    )


def _require_finite(model: PreTrainedModel, located: Located) -> None:
    broken = [
        name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())
    ]
    if broken:
        shown = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        raise ModelError(
            f"{located.name}: NaN or Inf in the weights of {shown}. Either they exceed the range "
            f"of {model.dtype} (try --dtype bfloat16 or float32), or the file is damaged (fetch it "
            "again)."
        )


def _wrap_object(
    model: Any, tokenizer: PreTrainedTokenizerBase | None, name: str | None
) -> LensModel:
    """A model that exists already: bridge a Hugging Face one, take TransformerLens' as it is."""
    if hasattr(model, "run_with_hooks"):
        tokenizer = tokenizer or model.tokenizer
        if tokenizer is None:
            raise ModelError("This model has no tokenizer. Pass tokenizer=...")
        label = name or str(model.cfg.model_name)
        hf_config = getattr(getattr(model, "original_model", None), "config", None)
        return LensModel(
            name=label,
            source="a TransformerLens object",
            bridge=model,
            tokenizer=tokenizer,
            readout=readout_of(model, hf_config),
            model_type=str(getattr(hf_config, "model_type", "unknown")),
        )
    if tokenizer is None:
        raise ModelError("A model object needs its tokenizer. Pass tokenizer=...")
    label = name or str(model.config.name_or_path or type(model).__name__)
    return _bridged(model.eval(), tokenizer, label, "a Hugging Face object", None)


def _bridged(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    source: str,
    folder: Path | None,
) -> LensModel:
    model_type = hf_model.config.model_type
    if hf_model.dtype not in DTYPES.values():
        formats = ", ".join(DTYPES)
        raise ModelError(f"{name} is in {hf_model.dtype}. Convert it to one of {formats} first.")
    # TransformerLens goes by this; a config that was never saved, or came from a GGUF, lacks it.
    hf_model.config.architectures = [type(hf_model).__name__]
    return LensModel(
        name=name,
        source=source,
        bridge=(bridge := _bridge(hf_model, tokenizer, name)),
        tokenizer=tokenizer,
        readout=readout_of(bridge, hf_model.config),
        folder=folder,
        model_type=model_type,
    )


def _bridge(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    device = str(next(hf_model.parameters()).device)
    try:
        with _quiet(), _private_tokenizer(tokenizer) as own:
            bridge = TransformerBridge.boot_transformers(
                # A plain label: TransformerLens would resolve old aliases like "pythia".
                f"lensbench/{Path(name).name}",
                hf_model=hf_model,
                tokenizer=own,
                device=device,
                dtype=hf_model.dtype,
            )
    except (ValueError, NotImplementedError, KeyError, AttributeError) as error:
        kind = hf_model.config.model_type
        reason = str(error).split(". ")[0]  # the rest lists all architectures there are
        raise ModelError(
            f"TransformerLens cannot bridge {name} (model type {kind}): {reason}. Check that the "
            "architecture is one that the installed transformer-lens supports."
        ) from error
    return bridge.eval()


@contextmanager
def _private_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Iterator[PreTrainedTokenizerBase]:
    """A copy for TransformerLens, which rewrites BOS settings; lensbench tokenises by itself.

    TransformerLens reloads a tokenizer that has a BOS token and does not say that it adds it, so
    one that adds it anyway says so here, and any other comes from a saved folder.
    """
    from transformers import AutoTokenizer

    if tokenizer.bos_token is None or tokenizer("a").input_ids[0] == tokenizer.bos_token_id:
        own = copy.deepcopy(tokenizer)
        own.init_kwargs |= {"add_bos_token": True, "name_or_path": ""}
        yield own
        return
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        yield AutoTokenizer.from_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
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
