"""A model variant for the lens: the second path loads it, the bridge wraps it.

Both must give the same output before anything is read.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lensbench.checkpoints.devices import DTYPES, pick_device, pick_dtype
from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.open import count_parameters, open_config
from lensbench.checkpoints.ref import Bits, Variant, parse_variant
from lensbench.checkpoints.source import locate
from lensbench.errors import GateError, InputProblems, ModelError, Problem
from lensbench.files import sha256_of
from lensbench.lens.gate import lens_identity, worst
from lensbench.lens.metrics import Distribution, kl_bits
from lensbench.models.load import load_model
from lensbench.models.model import LensModel

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lensbench.quantized.loading.load import AdaptedModel

# LLM.int8 picks its outlier columns over a whole batch, so with its usual threshold of 6 a prompt's
# reading depends on the prompts beside it. With 0 it picks none, and batches change nothing.
INT8_THRESHOLD = 0.0
_PROBE = "The capital of Germany is"


def open_variant(
    model: str | Variant,
    *,
    dtype: str | None = None,
    device: str | None = None,
    int8_threshold: float = INT8_THRESHOLD,
    allow_fields: Collection[str] = (),
    trust_remote_code: bool = False,
) -> LensModel:
    """Load NAME[@BITS][+ADAPTER] for the lens; a name alone is what `load_model` makes of it.

    With bits, the precision is the second path's: LLM.int8 (without outlier columns), nf4,
    bfloat16 or float32. With an adapter alone it follows `dtype`. Give an `int8_threshold` above 0
    only to a lens that reads one prompt at a time.

    Raises:
        ModelError: as `load_model` and `load_quantized` do; an adapter of another base; an
            architecture that TransformerLens cannot wrap at these bits.
        GateError: what TransformerLens wrapped gives another output than the model itself.
        InputProblems: what is wrong with the name, or options that bits leave without effect.
    """
    variant = parse_variant(model) if isinstance(model, str) else model
    if variant.plain:
        return load_model(
            variant.name,
            dtype=dtype,
            device=device,
            allow_fields=allow_fields,
            trust_remote_code=trust_remote_code,
        )
    from lensbench.quantized.loading.load import load_quantized

    bits = bits_of(variant, dtype, device, allow_fields)
    adapted = load_quantized(
        variant.name, bits, variant.adapter, device, int8_threshold, trust_remote_code
    )
    adapted.base.set_attn_implementation("eager")  # as the bridge runs it: the same sums
    own = _own_logits(adapted)
    try:
        wrapped = load_model(adapted.base, tokenizer=adapted.tokenizer, name=str(variant))
    except RuntimeError as error:  # it takes joint q/k/v apart, which packed weights refuse
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"TransformerLens cannot wrap {variant}: {what}. Read it at 16 or 32 bits: "
            f"{variant.name}@16."
        ) from error
    _require_same(wrapped, adapted, own)
    return replace(wrapped, source=str(adapted.folder), folder=adapted.folder)


def bits_of(
    variant: Variant, dtype: str | None, device: str | None, allow_fields: Collection[str] = ()
) -> Bits:
    """The precision of a variant: its own bits; for an adapter alone those of `dtype`'s rule.

    Raises InputProblems for `dtype` or `allow_fields` where they would have no effect.
    """
    problems = []
    where = f"model {variant}"
    if allow_fields:
        what = "fields cannot be allowed for a model with bits or an adapter"
        problems.append(Problem(where, what, "Leave --allow-field out."))
    if variant.bits is not None and dtype is not None:
        what = f"the number format is given twice: @{variant.bits} and dtype {dtype}"
        problems.append(Problem(where, what, "Leave one of them out."))
    if variant.bits is None and dtype == "float16":
        what = "an adapter is put onto float32, bfloat16, or 8 or 4 bits"
        problems.append(Problem(where, what, "Write @16, @8 or @4 after the name."))
    if problems:
        raise InputProblems(problems)
    if variant.bits is not None:
        return variant.bits
    n_params = count_parameters(open_config(locate(variant.name).require_folder()))
    picked = pick_dtype(dtype, pick_device(device), n_params)
    return 32 if picked == DTYPES["float32"] else 16


def variant_facts(
    variant: Variant, dtype: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """What decides a variant's weights, for a manifest: hashes; with bits or an adapter, these too.

    `adapter_update_norms` holds, block by block, the Frobenius norm of all that the adapter adds
    to its weights together (0 where it adds nothing); null for an adapter that changes anything
    but products of two factors inside the blocks, with the reason in `adapter_norms_reason`.
    """
    folder = locate(variant.name).require_folder()
    facts: dict[str, Any] = dict(hashes(folder))
    if variant.plain:
        return facts
    bits = bits_of(variant, dtype, device)
    config = open_config(folder)
    facts |= {
        "base": variant.name,
        "bits": bits,
        "int8_threshold": INT8_THRESHOLD if bits == 8 else None,
        "n_params": count_parameters(config),
        "adapter": None,
    }
    if variant.adapter is not None:
        facts |= _adapter_facts(variant, int(config.get_text_config().num_hidden_layers))
    return facts


def _adapter_facts(variant: Variant, n_layers: int) -> dict[str, Any]:
    from lensbench.quantized.adapters.adapter import CONFIG, WEIGHTS, read_weights
    from lensbench.quantized.adapters.update import read_updates

    folder = variant.adapter
    assert folder is not None
    read_weights(folder)
    files = {
        "adapter": folder.resolve().name,
        "adapter_sha256": sha256_of(folder / WEIGHTS),
        "adapter_config_sha256": sha256_of(folder / CONFIG),
    }
    try:
        updates = read_updates(folder)
    except ModelError as error:  # such as DoRA, or biases that were trained
        return files | {"adapter_update_norms": None, "adapter_norms_reason": str(error)}
    outside = [update.module for update in updates.values() if update.block is None]
    if outside:
        reason = f"it changes {outside[0]}, which is in no block"
        return files | {"adapter_update_norms": None, "adapter_norms_reason": reason}
    squared = [0.0] * n_layers
    for update in updates.values():
        if update.block is not None and update.block < n_layers:
            squared[update.block] += update.norm() ** 2
    return files | {"adapter_update_norms": [value**0.5 for value in squared]}


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
    from lensbench.residuals.capture import residual_stream

    ids = adapted.tokenizer(_PROBE).input_ids
    found = residual_stream(wrapped, ids).logits[0].float()
    p, q = Distribution.from_logits(own), Distribution.from_logits(found)
    identity = lens_identity(wrapped, worst(kl_bits(p, q).tolist()))
    if not identity.passed:
        raise GateError(
            f"{wrapped.name}: TransformerLens gives another output than the model itself, by "
            f"{identity.error:.3g} bits (bound {identity.bound:g}): it leaves out the adapter or "
            "the quantisation of a module that it takes apart. Merge the adapter "
            "(`lensbench adapters merge`) and read the merged model."
        )
