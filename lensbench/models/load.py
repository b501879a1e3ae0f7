"""Loading: a name, a folder or a model object becomes a LensModel, or a reason why it cannot."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.checkpoints.devices import DTYPES, pick_device, pick_dtype, require_fit
from lensbench.checkpoints.open import (
    count_parameters,
    open_config,
    open_tokenizer,
    open_weights,
    quiet,
    require_finite,
)
from lensbench.checkpoints.source import locate
from lensbench.errors import ModelError
from lensbench.models.model import LensModel
from lensbench.models.readout import readout_of

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
    config = open_config(folder, allow_fields, trust_remote_code)
    where = pick_device(device)
    n_params = count_parameters(config, trust_remote_code)
    number_format = pick_dtype(dtype, where, n_params)
    require_fit(n_params, number_format, where)
    with quiet():
        hf_model = open_weights(folder, number_format, trust_remote_code).to(where).eval()
        tokenizer = tokenizer or open_tokenizer(folder, trust_remote_code)
    require_finite(hf_model, located.name)
    return _bridged(hf_model, tokenizer, name or located.name, str(folder), folder)


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
        with quiet(), _private_tokenizer(tokenizer) as own:
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
