"""The bridge: a Hugging Face model wrapped by TransformerLens, in place, under a name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.checkpoints.devices import DTYPES
from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import ModelError
from lensbench.models.model import LensModel
from lensbench.models.readout import readout_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def bridged(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    source: str,
    ref: ModelRef | None = None,
) -> LensModel:
    """The model for the lens. Raises ModelError where TransformerLens cannot wrap it."""
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
        model_type=model_type,
        ref=ref,
    )


def _bridge(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    device = str(next(hf_model.parameters()).device)
    try:
        with quiet():
            bridge = TransformerBridge.boot_transformers(
                # A plain label: TransformerLens would resolve old aliases like "pythia".
                f"lensbench/{Path(name).name}",
                hf_model=hf_model,
                tokenizer=_as_it_is(tokenizer),
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
    # A text's tokens are those that lensbench reads, at the same positions: by default
    # TransformerLens puts BOS before every text, whatever the tokenizer does.
    bridge.cfg.default_prepend_bos = bridge.cfg.tokenizer_prepends_bos
    return bridge.eval()


def _as_it_is(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that TransformerLens takes as it is, but for a padding token.

    It reloads any other tokenizer that has a BOS token, to make it put that before every text.
    """
    own = copy.deepcopy(tokenizer)
    own.init_kwargs |= {"add_bos_token": True, "name_or_path": ""}
    return own
