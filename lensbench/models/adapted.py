"""A model with bits or an adapter for the lens: the second path loads it, the bridge wraps it.

Both must give the same output before anything is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, cast

from lensbench.checkpoints.config.shape import n_blocks
from lensbench.checkpoints.devices import DTYPES, pick_dtype
from lensbench.checkpoints.open import count_parameters, open_config
from lensbench.checkpoints.placement import Placement, require_fit
from lensbench.checkpoints.ref import Bits, ModelRef
from lensbench.errors import InputProblems, ModelError, Problem
from lensbench.models.bridge import Proof, bridged
from lensbench.models.model import LensModel
from lensbench.quantized.peaks import Use
from lensbench.quantized.precision import sizes_of

_log = logging.getLogger(__name__)


def open_adapted(
    ref: ModelRef,
    dtype: str | None,
    device: str | None,
    allow_fields: Collection[str] = (),
    trust_remote_code: bool = False,
    proof: Proof | None = None,
) -> LensModel:
    """Load a model that is not plain, as `load_model` does.

    With bits, the precision is the second path's: LLM.int8, nf4, bfloat16 or float32. With an
    adapter alone it follows `dtype`.
    """
    from lensbench.quantized.loading.load import load_quantized

    _say_format(ref)
    whole = with_bits(ref, dtype, device, allow_fields)
    adapted = load_quantized(whole, device=device, trust_remote_code=trust_remote_code)
    held = adapted.facts()["precisions"]
    hf_model, source = adapted.base.eval(), ref.located.source
    wrapped = bridged(hf_model, adapted.tokenizer, str(ref), source, whole, proof)
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
    n_params = count_parameters(open_config(ref.folder))
    picked = pick_dtype(dtype, Placement.of(device).main, n_params)
    return replace(ref, bits=32 if picked == DTYPES["float32"] else 16)


def require_loadable(
    ref: ModelRef, dtype: str | None = None, device: str | None = None, use: Use | None = None
) -> None:
    """Raise ModelError where a model is too large, or with what its `use` takes; it is not read."""
    use = use or Use()
    if not ref.plain:
        from lensbench.quantized.loading.load import require_loadable as require_bits_loadable

        require_bits_loadable(with_bits(ref, dtype, device), device, use=use)
        return
    where, config = Placement.of(device), open_config(ref.folder)
    sizes = sizes_of(config)
    n_params = sizes.n_linear + sizes.n_other
    number_format = pick_dtype(dtype, where.main, n_params)

    def beside(bits: int) -> int:
        return use.beside(sizes, cast(Bits, bits))

    require_fit(n_params, number_format, where, in_8_bits(config, where.main), beside)


def require_loadable_with_control(
    ref: ModelRef, dtype: str | None, device: str | None, use: Use, without: str
) -> None:
    """The same; where there is room for all but an untrained model, ways out are `without` it."""
    try:
        require_loadable(ref, dtype, device, use)
    except ModelError as error:
        if not use.batch.control:
            raise
        require_loadable(ref, dtype, device, Use(use.verb, replace(use.batch, control=False)))
        raise ModelError(
            f"the control of an untrained model beside {ref}: {error} Or do without the control: "
            f"{without}."
        ) from error


def in_8_bits(config: Any, device: str) -> Callable[[], int]:
    """What loading a model of this config in 8 bits takes, worked out when it is asked for."""
    return lambda: sizes_of(config).needed(8, device)


def facts_of(
    ref: ModelRef, dtype: str | None = None, device: str | None = None, use: Use | None = None
) -> dict[str, Any]:
    """What decides a model's weights, known before they are loaded; for the lens' manifests.

    A plain model's hashes; else all facts of the model with its bits, its base's name and number of
    parameters, and how much the adapter changes each block. For a new record, which will load the
    model, with its `use` `require_loadable` comes before anything is hashed.
    """
    if use is not None:
        require_loadable(ref, dtype, device, use)
    if ref.plain:
        return ref.facts()
    config = open_config(ref.folder)
    facts: dict[str, Any] = {"base": ref.name, "n_params": count_parameters(config)}
    facts |= with_bits(ref, dtype, device).facts()
    if ref.adapter is None:
        return facts
    from lensbench.quantized.adapters.update import update_norms

    return facts | update_norms(ref.adapter, ref, n_blocks(config))
