"""A model with bits or an adapter for the lens: the second path loads it, the bridge wraps it.

Both must give the same output before anything is read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lensbench.checkpoints.devices import DTYPES, pick_device, pick_dtype
from lensbench.checkpoints.open import count_parameters, open_config
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import GateError, InputProblems, ModelError, Problem, first_line
from lensbench.models.bridge import bridged
from lensbench.models.model import LensModel
from lensbench.models.readout import KL_BITS

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lensbench.quantized.loading.load import AdaptedModel

_log = logging.getLogger(__name__)

_PROBE = "The capital of Germany is"


def open_adapted(
    ref: ModelRef,
    dtype: str | None,
    device: str | None,
    allow_fields: Collection[str] = (),
    trust_remote_code: bool = False,
) -> LensModel:
    """Load a model that is not plain, as `load_model` does.

    With bits, the precision is the second path's: LLM.int8, nf4, bfloat16 or float32. With an
    adapter alone it follows `dtype`.
    """
    from lensbench.quantized.loading.load import load_quantized

    _say_format(ref)
    whole = with_bits(ref, dtype, device, allow_fields)
    adapted = load_quantized(whole, device=device, trust_remote_code=trust_remote_code)
    adapted.base.set_attn_implementation("eager")  # as the bridge runs it: the same sums
    own, held = _own_logits(adapted), adapted.facts()["precisions"]
    try:
        wrapped = bridged(
            adapted.base.eval(), adapted.tokenizer, str(ref), ref.located.source, whole
        )
    except RuntimeError as error:  # it takes joint q/k/v apart, which packed weights refuse
        what = first_line(error)
        raise ModelError(
            f"TransformerLens cannot wrap {ref}: {what}. Read it at 16 or 32 bits: {ref.name}@16."
        ) from error
    _require_same(wrapped, adapted, own)
    return replace(wrapped, precisions=held)


def _say_format(ref: ModelRef) -> None:
    """The lens reads a prompt as it stands, or in a chat; an adapter may be trained in neither."""
    if ref.adapter is None:
        return
    from lensbench.quantized.adapters.prompt_format import saved_format

    saved = saved_format(ref.adapter)
    if saved is not None and saved["style"] != "none":
        _log.info(
            "%s was trained in style %s; the lens reads the prompts in the template that is asked "
            "for (--template), by default as they stand",
            ref.adapter.resolve().name,
            saved["style"],
        )


def with_bits(
    ref: ModelRef, dtype: str | None, device: str | None, allow_fields: Collection[str] = ()
) -> ModelRef:
    """The model with its precision: its own bits; for an adapter alone those of `dtype`'s rule.

    Raises InputProblems for `dtype` or `allow_fields` where they would have no effect.
    """
    problems = []
    where = f"model {ref}"
    if allow_fields:
        what = "fields cannot be allowed for a model with bits or an adapter"
        problems.append(Problem(where, what, "Leave --allow-field out."))
    if ref.bits is not None and dtype is not None:
        what = f"the number format is given twice: @{ref.bits} and dtype {dtype}"
        problems.append(Problem(where, what, "Leave one of them out."))
    if ref.bits is None and dtype == "float16":
        what = "an adapter is put onto float32, bfloat16, or 8 or 4 bits"
        problems.append(Problem(where, what, "Write @16, @8 or @4 after the name."))
    if problems:
        raise InputProblems(problems)
    if ref.bits is not None:
        return ref
    picked = pick_dtype(dtype, pick_device(device), count_parameters(open_config(ref.folder)))
    return replace(ref, bits=32 if picked == DTYPES["float32"] else 16)


def facts_of(ref: ModelRef, dtype: str | None = None, device: str | None = None) -> dict[str, Any]:
    """What decides a model's weights, known before they are loaded; for the lens' manifests.

    A plain model's hashes; else all facts of the model with its bits, its base's name and number of
    parameters, and how much the adapter changes each block.
    """
    if ref.plain:
        return ref.facts()
    config = open_config(ref.folder)
    facts: dict[str, Any] = {"base": ref.name, "n_params": count_parameters(config)}
    facts |= with_bits(ref, dtype, device).facts()
    if ref.adapter is None:
        return facts
    from lensbench.quantized.adapters.update import update_norms

    n_layers = int(config.get_text_config().num_hidden_layers)
    return facts | update_norms(ref.adapter, ref, n_layers)


def _own_logits(adapted: AdaptedModel) -> Float[Tensor, "pos d_vocab"]:
    """What the model itself says, adapter and all, before TransformerLens has touched it."""
    ids = torch.tensor([adapted.tokenizer(_PROBE).input_ids], device=adapted.device)
    with torch.inference_mode():
        return adapted.hf(input_ids=ids).logits[0].float()


def _require_same(
    wrapped: LensModel, adapted: AdaptedModel, own: Float[Tensor, "pos d_vocab"]
) -> None:
    """The wrapped model gives the model's own output, within the gate's bound for its dtype.

    TransformerLens takes some modules apart; what it makes of them could leave an adapter out.
    """
    ids = torch.tensor([adapted.tokenizer(_PROBE).input_ids], device=wrapped.device)
    with torch.inference_mode():
        found = wrapped.bridge.run_with_hooks(ids, fwd_hooks=[], return_type="logits")[0].float()
    error, bound = _kl_bits(own, found), KL_BITS[wrapped.dtype]
    if not error <= bound:  # NaN is no agreement
        raise GateError(
            f"{wrapped.name}: TransformerLens gives another output than the model itself, by "
            f"{error:.3g} bits (bound {bound:g}): it leaves out the adapter or the quantisation of "
            "a module that it takes apart. Merge the adapter (`lensbench adapters merge`) and read "
            "the merged model."
        )


def _kl_bits(p: Float[Tensor, "pos d_vocab"], q: Float[Tensor, "pos d_vocab"]) -> float:
    """KL(p || q) of two tables of logits, the worst position."""
    log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).max()) / math.log(2)
