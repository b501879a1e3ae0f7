"""The gate: identities that must hold before anything read from a model may be reported.

A lens is worth reporting only if, at the last layer, it is the model. Published work ran for
months with "calibration gaps" of 1.01-1.14 bits that were a forgotten soft cap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.hashes import FINGERPRINT_BITS, fingerprint_error
from lensbench.errors import GateError, ModelError
from lensbench.lens.base import Lens
from lensbench.lens.metrics import Distribution, kl_bits
from lensbench.lens.registry import make_lens
from lensbench.models.model import LensModel, require_loaded
from lensbench.models.readout import KL_BITS
from lensbench.models.sites import Site
from lensbench.prompts.batch import Batch, PaddingSide, make_batch
from lensbench.prompts.encode import encode_ids
from lensbench.prompts.prompt import Prompts
from lensbench.residuals.capture import Residuals, capture_positions, watch
from lensbench.residuals.store import CachedResiduals

# Bounds per dtype. Their reason: the spacing of the number format (float32 2^-24, float16 2^-11,
# bfloat16 2^-8 relative) times the few roundings between the residual stream and the logits.
_RELATIVE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
_ROW_SUM = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}
# Of two passes, whose roundings add up over the blocks in half precision.
_HEADS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}
_PADDING_KL_BITS = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 5e-2}
_TINY = torch.finfo(torch.float32).tiny  # nothing over nothing is no error
_ALIKE = "both sides rounded as the model rounds: what is reported are float32 products"
_REASON = {
    torch.float32: "float32: 24-bit mantissa; the bound is 100 times the rounding seen",
    torch.float16: f"float16: 11-bit mantissa; logits of 16 are spaced 0.016 apart; {_ALIKE}",
    torch.bfloat16: f"bfloat16: 8-bit mantissa; logits of 16 are spaced 0.125 apart; {_ALIKE}",
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

    @classmethod
    def held(cls, identity: str, error: float, bound: float, unit: str, reason: str) -> Identity:
        """One that was measured. NaN compares false with everything, so it fails too."""
        return cls(identity, error, bound, unit, bool(error <= bound), reason)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def lens_identity(model: LensModel, error: float, lens: str = "final") -> Identity:
    """The lens at the last layer is the model: KL(model || lens), the worst cell."""
    name = f"lens '{lens}' at the last layer = the model's output"
    return Identity.held(name, error, KL_BITS[model.dtype], "bits", _REASON[model.dtype])


def stored_identity(model: LensModel, error: float, dtype: torch.dtype) -> Identity:
    """The lens at the last layer as it is on disk, in `dtype`, is the model: the worst cell."""
    coarser = max(dtype, model.dtype, key=KL_BITS.__getitem__)
    name = "lens 'final' at the last layer on disk = the model's output"
    return Identity.held(name, error, KL_BITS[coarser], "bits", _REASON[coarser])


def check_identities(model: LensModel, prompts: Prompts, lens: str = "final") -> list[Identity]:
    """Measure every identity on a few short prompts.

    Args:
        prompts: texts, token ids or Prompts; two or more of different lengths test padding as well.
            What is captured at the sites is tested on the first.
        lens: the lens tested as a reading of the model's output; "raw" fails on RMSNorm models.
    """
    token_ids = encode_ids(require_loaded(model).encoder(), prompts)
    alone = [_run(model, [ids]) for ids in token_ids]
    reading = make_lens(lens, model)
    error = worst(float(last_layer_kl_bits(model, one, reading).max()) for one in alone)
    batch = make_batch([0], token_ids)
    return [
        lens_identity(model, error, lens),
        _padding_identity(model, token_ids, alone),
        *(identity.measure(model, batch) for identity in SITE_IDENTITIES.values()),
    ]


def published_identity(model: LensModel) -> Identity | None:
    """A demo model says what it said when it was first converted; None for any other model.

    The other identities compare a model with itself as it was loaded; this one sees a library that
    loads another model from the same files.
    """
    family = None if model.ref is None or not model.ref.plain else model.ref.located.family
    if model.ref is None or family is None or family.fingerprint is None:
        return None
    name, print_ = "output = the one stored in lensbench for this model", family.fingerprint
    reason = "float32: rounding of another machine is less, of another model more"
    if model.dtype != torch.float32:
        return Identity(name, None, FINGERPRINT_BITS, "bits", None, "stored in float32 only")
    if model.ref.facts()["weights_sha256"] != print_.weights_sha256:
        other = "the weights are not those that lensbench converted"
        return Identity(name, None, FINGERPRINT_BITS, "bits", None, other)
    error = fingerprint_error(
        print_,
        model.tokenizer(print_.text).input_ids,
        lambda ids: _run(model, [ids]).model_logits(slice(len(ids) - 1, len(ids)))[0],
    )
    return Identity.held(name, error, FINGERPRINT_BITS, "bits", reason)


def last_layer_kl_bits(
    model: LensModel, residuals: Residuals | CachedResiduals, lens: Lens
) -> Float[Tensor, " cell"]:
    """KL(model || lens at the last layer) per cell: 0 for a lens that reproduces the model.

    In half precision the lens rounds its products here as the model does.
    """
    final = residuals.at(model.final_site)
    rows = model.readout.rows_at_once
    size = rows if model.readout.holds else 1  # of whole distributions compared at once
    values = []
    with torch.inference_mode():
        for start in range(0, len(residuals.cells), rows):
            cells = slice(start, min(start + rows, len(residuals.cells)))
            logits = model.readout.rounded(lens.normed(final[cells], model.final_site))
            pairs = zip(residuals.model_logits(cells).split(size), logits.split(size), strict=True)
            for own, read in pairs:
                p, q = Distribution.from_logits(own), Distribution.from_logits(read)
                values.append(kl_bits(p, q))
    return torch.cat(values)


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


def _run(
    model: LensModel, token_ids: Sequence[Sequence[int]], side: PaddingSide = "right"
) -> Residuals:
    everywhere = [range(len(ids)) for ids in token_ids]
    return capture_positions(model, token_ids, everywhere, [model.final_site], side)


def _padding_identity(
    model: LensModel, token_ids: Sequence[Sequence[int]], alone: Sequence[Residuals]
) -> Identity:
    """A padded batch gives each prompt what it gets alone: KL(alone || batched), the worst cell.

    Padding on the left is the hard side: on the right, the causal mask hides it anyway.
    """
    name = "a padded batch = one prompt at a time"
    bound, reason = _PADDING_KL_BITS[model.dtype], _padding_reason(model)
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
    return Identity.held(name, worst(errors), bound, "bits", reason)


def _padding_reason(model: LensModel) -> str:
    if model.ref is not None and model.ref.int8_threshold:
        return (
            "LLM.int8 picks its outlier columns over a whole batch: what is read of a prompt "
            "depends on its neighbours. Read it as NAME@8, whose outlier threshold is 0"
        )
    return "other shapes, other order of the same sums"


@dataclass(frozen=True)
class SiteIdentity:
    """What must hold of the values at sites of a kind; measured in one pass, layer by layer."""

    identity: str
    errors: Callable[[LensModel, Batch], list[float]]
    bounds: Mapping[torch.dtype, float]
    unit: str
    reason: str

    def measure(self, model: LensModel, batch: Batch) -> Identity:
        """Of every block; untestable, with the reason, where the model does not show its parts."""
        bound = self.bounds[model.dtype]
        try:
            error = worst(self.errors(model, batch))
        except ModelError as why:
            return Identity(self.identity, None, bound, self.unit, None, str(why))
        return Identity.held(self.identity, error, bound, self.unit, self.reason)


def _in_every_block(model: LensModel, *kinds: str) -> list[Site]:
    """Sites of some kinds. Raises ModelError where a block has none."""
    sites = model.sites(kinds)
    for kind in kinds:
        n_blocks = len({site.layer for site in sites if site.kind == kind})
        if n_blocks < model.n_layers:
            missing = f"{model.n_layers - n_blocks} of {model.n_layers} blocks"
            raise ModelError(f"{missing} of this architecture do not expose {kind}")
    return sites


def _parts_errors(model: LensModel, batch: Batch) -> list[float]:
    """The stream before a block and what the block adds, against the stream after it."""
    sites = [*model.sites("embed"), *_in_every_block(model, "attn_out", "mlp_out", "resid_post")]
    errors, parts = [], list[Tensor]()

    def see(site: Site, value: Float[Tensor, "batch pos d_model"]) -> None:
        if site.kind == "resid_post":
            off = torch.stack(parts).sum(0) - value.float()
            errors.append(float((off.norm(dim=-1) / value.float().norm(dim=-1)).max()))
            parts.clear()
        parts.append(value.float())

    watch(model, batch, sites, see)
    return errors


def _pattern_errors(model: LensModel, batch: Batch) -> list[float]:
    """How far a row's sum is from 1, and the weight on what comes after it."""
    errors = []

    def see(site: Site, value: Float[Tensor, "batch head query key"]) -> None:
        errors.append(float((value.float().sum(-1) - 1).abs().max()))
        errors.append(float(value.float().triu(1).abs().max()))

    watch(model, batch, _in_every_block(model, "pattern"), see)
    return errors


def _head_errors(model: LensModel, batch: Batch) -> list[float]:
    """The heads' outputs and the projection's bias against what attention puts out.

    That is taken from a pass of its own, which does not make it from the heads, and before the norm
    that some families put behind it. Relative to the lengths of all of them, since heads cancel.
    """
    sites = _in_every_block(model, "attn_out")
    if hasattr(model.bridge.blocks[0], "ln1_post"):
        sites = [Site("ln1_post.hook_in", site.layer) for site in sites]
    if sites[0].hook not in model.bridge.hook_dict:
        raise ModelError("what attention puts out cannot be seen before its norm")
    whole: dict[int, Tensor] = {}
    watch(model, batch, sites, lambda site, value: whole.update({site.layer: value.float()}))
    errors = []

    def see(site: Site, value: Float[Tensor, "batch pos head d_model"]) -> None:
        heads, wanted = value.float(), whole[site.layer]
        off = heads.sum(2) + model.output_bias(site.layer) - wanted
        length = heads.norm(dim=-1).sum(-1) + wanted.norm(dim=-1)
        errors.append(float((off.norm(dim=-1) / length.clamp(min=_TINY)).max()))

    watch(model, batch, [Site("head_out", layer) for layer in whole], see)
    return errors


# What must hold at the sites of a kind, for the gate of every run and for `lensbench check`.
SITE_IDENTITIES = {
    "resid_post": SiteIdentity(
        "residual + attention + MLP of each block = the next residual",
        _parts_errors,
        _RELATIVE,
        "relative",
        "one rounding of the stream per addition",
    ),
    "pattern": SiteIdentity(
        "attention rows sum to 1 and look at nothing ahead",
        _pattern_errors,
        _ROW_SUM,
        "absolute",
        "each weight is rounded once",
    ),
    "head_out": SiteIdentity(
        "the outputs of a block's heads and the bias = its attention's output",
        _head_errors,
        _HEADS,
        "relative",
        "one rounding per head and addition, in two passes",
    ),
}
