"""The bridge: a Hugging Face model wrapped by TransformerLens, in place; and the proof of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lensbench.checkpoints.devices import DTYPES
from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.checkpoints.stored.offload import is_offloaded
from lensbench.errors import GateError, ModelError, refused_by_library
from lensbench.models.forward import forward, own_logits, worst_kl_bits
from lensbench.models.model import LensModel
from lensbench.models.readout import KL_BITS, Readout, readout_of
from lensbench.prompts.batch import make_batch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_PROBE = "The capital of Germany is"


class Proof:
    """The tokens that show that a wrapped model is the model: both say the same of them.

    Hugging Face's own class reads them before TransformerLens has touched it, the wrapped model
    after. Here they are those of a short text; who reads a prompt anyway makes his own pass the
    second one.
    """

    def ids(self, tokenizer: PreTrainedTokenizerBase, config: Any) -> list[int]:
        """A few tokens that the embedding has rows for."""
        d_vocab = int(config.get_text_config(decoder=True).vocab_size)
        return [token for token in tokenizer(_PROBE).input_ids if token < d_vocab] or [0]

    def logits(self, model: LensModel, ids: Sequence[int]) -> Float[Tensor, "pos d_vocab"]:
        """What the wrapped model says of them, at every position."""
        return forward(model.bridge, make_batch([0], [ids]), model.device)[0]


def require_same(
    model: LensModel, proof: Proof, ids: Sequence[int], own: Float[Tensor, "pos d_vocab"]
) -> None:
    """The wrapped model gives the model's own output, within the gate's bound for its dtype.

    Where that is NaN there is nothing to compare, but it has to be so of both: a run skips such
    prompts and says so.

    TransformerLens takes some modules apart; what it makes of them could leave an adapter out, or
    a bias, or a norm.

    Raises:
        GateError: it gives another one.
        ModelError: it cannot run.
    """
    remedy = "Check that the installed transformer-lens supports this architecture."
    with (
        torch.inference_mode(),
        refused_by_library(f"TransformerLens cannot run {model.name}", remedy),
    ):
        error = _error_bits(own, proof.logits(model, ids).float())
    bound = KL_BITS[model.dtype]
    if not error <= bound:
        raise GateError(
            f"{model.name}: TransformerLens gives another output than the model itself, by "
            f"{error:.3g} bits (bound {bound:g}): it leaves something out of a module that it "
            "takes apart. If that is an adapter, merge it (`lensbench adapters merge`) and read "
            "the merged model; if it is quantisation, read it at 16 or 32 bits."
        )


def _error_bits(own: Float[Tensor, "pos d_vocab"], found: Float[Tensor, "pos d_vocab"]) -> float:
    """The largest KL(own || found); inf where one of them alone is finite."""
    finite = own.isfinite().all(-1)
    if not torch.equal(finite, found.isfinite().all(-1)):
        return math.inf
    return worst_kl_bits(own[finite], found[finite]) if finite.any() else 0.0


def bridged(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    source: str,
    ref: ModelRef | None = None,
    proof: Proof | None = None,
) -> LensModel:
    """The model for the lens, held to Hugging Face's own class by `proof`.

    Raises ModelError where TransformerLens cannot wrap it, GateError where what it wrapped gives
    another output than the model itself.
    """
    model_type = hf_model.config.model_type
    if hf_model.dtype not in DTYPES.values():
        formats = ", ".join(DTYPES)
        raise ModelError(f"{name} is in {hf_model.dtype}. Convert it to one of {formats} first.")
    # TransformerLens goes by this; a config that was never saved, or came from a GGUF, lacks it.
    hf_model.config.architectures = [type(hf_model).__name__]
    proof = proof or Proof()
    ids = proof.ids(tokenizer, hf_model.config)
    hf_model.set_attn_implementation("eager")  # as the bridge runs it: the same sums
    own = own_logits(hf_model, ids, name)
    packed = ref is not None and ref.bits in (8, 4)
    bridge = _bridge(hf_model, tokenizer, name, packed)
    model = LensModel(
        name=name,
        source=source,
        bridge=bridge,
        tokenizer=tokenizer,
        readout=readout_of(bridge, hf_model.config),
        model_type=model_type,
        ref=ref,
    )
    require_same(model, proof, ids, own)
    return model


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
