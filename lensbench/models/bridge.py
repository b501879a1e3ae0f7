"""The bridge: a Hugging Face model wrapped by TransformerLens, in place, under a name."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lensbench.checkpoints.devices import DTYPES
from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.checkpoints.stored.offload import is_offloaded
from lensbench.errors import ModelError, refused_by_library
from lensbench.models.forward import own_logits, probe, require_same
from lensbench.models.model import LensModel
from lensbench.models.readout import Readout, readout_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def bridged(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    source: str,
    ref: ModelRef | None = None,
) -> LensModel:
    """The model for the lens.

    Raises ModelError where TransformerLens cannot wrap it, GateError where what it wrapped gives
    another output than the model itself.
    """
    model_type = hf_model.config.model_type
    if hf_model.dtype not in DTYPES.values():
        formats = ", ".join(DTYPES)
        raise ModelError(f"{name} is in {hf_model.dtype}. Convert it to one of {formats} first.")
    # TransformerLens goes by this; a config that was never saved, or came from a GGUF, lacks it.
    hf_model.config.architectures = [type(hf_model).__name__]
    ids = probe(tokenizer, hf_model)
    own = own_logits(hf_model, ids, name)
    packed = ref is not None and ref.bits in (8, 4)
    bridge = _bridge(hf_model, tokenizer, name, packed)
    require_same(bridge, ids, own, name)
    return LensModel(
        name=name,
        source=source,
        bridge=bridge,
        tokenizer=tokenizer,
        readout=readout_of(bridge, hf_model.config),
        model_type=model_type,
        ref=ref,
    )


def without_weights(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    source: str,
    ref: ModelRef,
    device: str,
) -> LensModel:
    """The same of a model whose tensors have shapes and no numbers, as it would be on a device.

    Whatever plans work goes by it: sites, context, tokens. It reads nothing.

    Raises ModelError where TransformerLens cannot wrap it.
    """
    hf_model.config.architectures = [type(hf_model).__name__]
    bridge = _bridge(hf_model, tokenizer, name, packed=False)
    cap = getattr(bridge.cfg, "output_logits_soft_cap", None)
    soft_cap = float(cap) if cap is not None and cap > 0 else None
    W_U = torch.zeros((), dtype=hf_model.dtype, device=device).expand(bridge.W_U.shape)
    readout = Readout(lambda resid: resid, W_U, None, soft_cap=soft_cap)
    model_type = hf_model.config.model_type
    packed: dict[str, str] | None = {} if ref.bits in (8, 4) else None
    return LensModel(name, source, bridge, tokenizer, readout, model_type, ref, packed)


def _bridge(
    hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, packed: bool
) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    device = str(hf_model.get_input_embeddings().weight.device)
    kind = hf_model.config.model_type
    remedy = "Check that the installed transformer-lens supports this architecture."
    if packed:  # it takes joint q/k/v apart, which packed weights refuse
        remedy = "Read it at 16 or 32 bits: NAME@16."
    with (
        quiet(),
        _as_one_device(hf_model),
        refused_by_library(f"TransformerLens cannot wrap {name} (model type {kind})", remedy),
    ):
        bridge = TransformerBridge.boot_transformers(
            # A plain label: TransformerLens would resolve old aliases like "pythia".
            f"lensbench/{Path(name).name}",
            hf_model=hf_model,
            tokenizer=_as_it_is(tokenizer),
            device=device,
            dtype=hf_model.dtype,
        )
    # A text's tokens are those that lensbench reads, at the same positions: by default
    # TransformerLens puts BOS before every text, whatever the tokenizer does.
    bridge.cfg.default_prepend_bos = bridge.cfg.tokenizer_prepends_bos
    return bridge.eval()


@contextmanager
def _as_one_device(hf_model: PreTrainedModel) -> Iterator[None]:
    """TransformerLens refuses a map of GPUs beside memory or a disk, which nobody tried there.

    It wraps such a model as it wraps others; that its output is the model's own is tested anyhow.
    """
    found = getattr(hf_model, "hf_device_map", None)
    hidden = found is not None and is_offloaded(hf_model)
    if hidden:
        del hf_model.hf_device_map
    try:
        yield
    finally:
        if hidden:
            hf_model.hf_device_map = found


def _as_it_is(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that TransformerLens takes as it is, but for a padding token.

    It reloads any other tokenizer that has a BOS token, to make it put that before every text.
    """
    own = copy.deepcopy(tokenizer)
    own.init_kwargs |= {"add_bos_token": True, "name_or_path": ""}
    return own
