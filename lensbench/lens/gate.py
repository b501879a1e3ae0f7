"""The gate: identities that must hold before anything read from a model may be reported.

A lens is worth reporting only if, at the last layer, it is the model. Published work ran for
months with "calibration gaps" of 1.01-1.14 bits that were a forgotten soft cap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lensbench.errors import GateError
from lensbench.lens.logit import last_layer_kl_bits
from lensbench.lens.metrics import Distribution, kl_bits
from lensbench.models.model import LensModel
from lensbench.models.readout import Lens
from lensbench.prompts.batch import PaddingSide, make_batch
from lensbench.residuals.capture import Residuals, capture

# Bounds per dtype. Their reason: the spacing of the number format (float32 2^-24, float16 2^-11,
# bfloat16 2^-8 relative) times the few roundings between the residual stream and the logits.
_KL_BITS = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 2e-2}
_RELATIVE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
_ROW_SUM = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}
_PADDING_KL_BITS = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 5e-2}
_REASON = {
    torch.float32: "float32: 24-bit mantissa; the bound is 100 times the rounding seen",
    torch.float16: "float16: 11-bit mantissa; logits of 16 are spaced 0.016 apart",
    torch.bfloat16: "bfloat16: 8-bit mantissa; logits of 16 are spaced 0.125 apart",
}


@dataclass(frozen=True)
class Identity:
    """One identity, its error and the bound; `passed` is None where it cannot be tested."""

    identity: str
    error: float | None
    bound: float
    unit: str
    passed: bool | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def lens_identity(model: LensModel, error: float, lens: Lens = "final") -> Identity:
    """The lens at the last layer is the model: KL(model || lens), the worst cell."""
    name = f"lens '{lens}' at the last layer = the model's output"
    return _identity(name, error, _KL_BITS[model.dtype], "bits", _REASON[model.dtype])


def stored_identity(model: LensModel, error: float, dtype: torch.dtype) -> Identity:
    """The lens at the last layer as it is on disk, in `dtype`, is the model: the worst cell."""
    coarser = max(dtype, model.dtype, key=_KL_BITS.__getitem__)
    name = "lens 'final' at the last layer on disk = the model's output"
    return _identity(name, error, _KL_BITS[coarser], "bits", _REASON[coarser])


def check_identities(
    model: LensModel, token_ids: Sequence[Sequence[int]], lens: Lens = "final"
) -> list[Identity]:
    """Measure every identity on a few short prompts.

    Args:
        token_ids: prompts as token ids; two or more of different lengths test padding as well.
        lens: the lens tested as a reading of the model's output; "raw" fails on RMSNorm models.
    """
    alone = [_run(model, [ids]) for ids in token_ids]
    error = worst(float(last_layer_kl_bits(model, residuals, lens).max()) for residuals in alone)
    return [
        lens_identity(model, error, lens),
        _padding_identity(model, token_ids, alone),
        *_stream_identities(model, token_ids[0]),
    ]


def require(identities: Sequence[Identity]) -> None:
    """Raise GateError, with every error and bound, when an identity does not hold."""
    failed = [identity for identity in identities if identity.passed is False]
    if failed:
        lines = "\n".join(
            f"  - {i.identity}: error {i.error:.3g} {i.unit}, bound {i.bound:g} ({i.reason})"
            for i in failed
        )
        raise GateError(
            f"The gate failed, so nothing is reported:\n{lines}\n"
            "The lens does not reproduce this model. Run `lensbench check` on it for all numbers."
        )


def worst(errors: Iterable[float]) -> float:
    """The largest error; NaN if any is NaN, which Python's max would pass over."""
    return float(torch.tensor(list(errors), dtype=torch.float64).max())


def _identity(name: str, error: float, bound: float, unit: str, reason: str) -> Identity:
    # NaN compares false with everything, so it fails too.
    return Identity(name, error, bound, unit, bool(error <= bound), reason)


def _run(
    model: LensModel, token_ids: Sequence[Sequence[int]], side: PaddingSide = "right"
) -> Residuals:
    batch = make_batch(range(len(token_ids)), token_ids, side)
    cells = [
        (row, batch.column(row, position))
        for row, ids in enumerate(token_ids)
        for position in range(len(ids))
    ]
    return capture(model, batch, [model.final_site], cells)


def _padding_identity(
    model: LensModel, token_ids: Sequence[Sequence[int]], alone: Sequence[Residuals]
) -> Identity:
    """A padded batch gives each prompt what it gets alone: KL(alone || batched), the worst cell.

    Padding on the left is the hard side: on the right, the causal mask hides it anyway.
    """
    name = "a padded batch = one prompt at a time"
    bound, reason = _PADDING_KL_BITS[model.dtype], "other shapes, other order of the same sums"
    if len({len(ids) for ids in token_ids}) < 2:
        why = "needs prompts of at least two lengths"
        return Identity(name, None, bound, "bits", None, why)
    errors = []
    for together in (_run(model, token_ids, "right"), _run(model, token_ids, "left")):
        start = 0
        for residuals in alone:
            for cell in range(len(residuals.cells)):
                p = Distribution.from_logits(residuals.model_logits(slice(cell, cell + 1)))
                batched = together.model_logits(slice(start, start + 1))
                errors.append(float(kl_bits(p, Distribution.from_logits(batched))))
                start += 1
    return _identity(name, worst(errors), bound, "bits", reason)


def _stream_identities(model: LensModel, token_ids: Sequence[int]) -> list[Identity]:
    """What each block adds sums to the stream; attention rows sum to 1."""
    parts = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    names = [f"blocks.{i}.{part}" for i in range(model.n_layers) for part in parts]
    patterns = [f"blocks.{i}.attn.hook_pattern" for i in range(model.n_layers)]
    ids = torch.tensor([list(token_ids)], device=model.device)
    with torch.inference_mode():
        _, cache = model.bridge.run_with_cache(ids, names_filter=[*names, *patterns])
    return [
        _sum_identity(model, cache, names),
        _pattern_identity(model, cache, patterns),
    ]


def _sum_identity(model: LensModel, cache: Any, names: list[str]) -> Identity:
    name = "residual + attention + MLP of each block = the next residual"
    bound = _RELATIVE[model.dtype]
    missing = sorted({n.split(".")[-1] for n in names if n not in cache})
    if missing:
        why = f"this architecture does not expose {', '.join(missing)}"
        return Identity(name, None, bound, "relative", None, why)
    errors = []
    for start in range(0, len(names), 4):
        before, attention, mlp, after = (cache[n].float() for n in names[start : start + 4])
        off = (before + attention + mlp - after).norm(dim=-1) / after.norm(dim=-1)
        errors.append(float(off.max()))
    reason = "one rounding of the stream per addition"
    return _identity(name, worst(errors), bound, "relative", reason)


def _pattern_identity(model: LensModel, cache: Any, patterns: list[str]) -> Identity:
    name = "attention rows sum to 1"
    bound = _ROW_SUM[model.dtype]
    there = [cache[n].float() for n in patterns if n in cache]
    if len(there) < len(patterns):
        why = f"{len(patterns) - len(there)} of {len(patterns)} layers expose no attention pattern"
        return Identity(name, None, bound, "absolute", None, why)
    error = worst(float((pattern.sum(-1) - 1).abs().max()) for pattern in there)
    return _identity(name, error, bound, "absolute", "each weight is rounded once")
