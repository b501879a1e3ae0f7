"""The gate of patterns: what must hold before anything is said of a model's heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lensbench.attention.facts import Facts
from lensbench.attention.patterns import Seen, Source
from lensbench.attention.scores import Pattern
from lensbench.attention.values import VALUES, output_weight, per_head
from lensbench.errors import Problem
from lensbench.lens.gate import (
    SITE_IDENTITIES,
    Identity,
    SiteIdentity,
    require,
    worst,
)
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import Batch, make_batch
from lensbench.residuals.capture import watch

ERROR = "row_error"  # note of a part: the worst error in it

_ROWS = SITE_IDENTITIES["pattern"]
_HEADS = SITE_IDENTITIES["head_out"]
# TransformerLens' hook point behind the output projection, before what some families do to it.
_OUTPUT = "attn.o.hook_out"
_TINY = torch.finfo(torch.float32).tiny


def _worst_row(notes: Iterable[Mapping[str, Any]], gates: Iterable[Sequence[Any]]) -> float:
    errors = [note.get(ERROR) for note in notes]  # ablations have none
    errors += [gate[0]["error"] for gate in gates if gate]
    return worst(error for error in errors if error is not None)


def gate_of_all(
    rows: Callable[[float], Identity],
    identities: Sequence[Identity],
    notes: Iterable[Mapping[str, Any]],
    gates: Iterable[Sequence[Any]] = (),
) -> list[Identity]:
    """The identities of a few prompts, that of rows being of all that was read.

    `rows` makes it of the worst error in the `notes` of parts and in the `gates` of manifests of
    narrower widths. Raises GateError.
    """
    gate = [rows(_worst_row(notes, gates)), *identities[1:]]
    require(gate)
    return gate


def not_finite(where: str, prompt_id: str) -> Problem:
    """A prompt whose attention is NaN or Inf, and what may help; `where`: what was done with it."""
    what, remedy = "its attention is NaN or Inf", "Leave it out, or read it in float32."
    return Problem(f"{where}, {prompt_id}", what, remedy, prompt_id)


def has_sinks(model: LensModel, block: int) -> bool:
    """Whether a share of each row goes to a sink that is no token (gpt-oss)."""
    attention = getattr(model.bridge.blocks[block], "attn", None)
    return getattr(getattr(attention, "original_component", None), "sinks", None) is not None


def row_error(pattern: Pattern, facts: Facts, sinks: bool = False) -> float:
    """How far a row's sum is from 1 (with sinks, above it), and the weight on what is not allowed.

    1 where all heads leave out the farthest token that they may look at: then the model's window is
    another than its config says, or keys are hidden by something else.
    """
    off = pattern.sum(-1) - 1
    summed = off.clamp(min=0) if sinks else off.abs()
    beyond = pattern.where(~facts.allowed.to(pattern.device), 0).abs()
    n = facts.n_tokens
    place = torch.arange(n, device=pattern.device)
    looked = (place[:, None] - place).where((pattern != 0).any(0), 0)  # NaN is not 0
    reach = int(facts.allowed[-1].sum()) - 1  # of the last query, which may look farthest
    short = float(int(looked.max()) < reach)
    return worst([float(summed.max()), float(beyond.max()), short])


def row_error_of(source: Source, seen: Seen, facts: Facts) -> float:
    """`row_error` of what was seen of a model; `facts` for the window of its block."""
    return row_error(seen.pattern, facts, has_sinks(source.model, seen.block))


def row_check(source: Source, token_ids: Sequence[int]) -> Callable[[Seen], float]:
    """What tells the `row_error_of` each block's pattern of one prompt."""
    facts = source.facts(token_ids)
    return lambda seen: row_error_of(source, seen, facts[source.windows[seen.block]])


def rows_identity(source: Source, error: float) -> Identity:
    """Rows sum to 1, nothing looks ahead or beyond its window: the worst of all that was read."""
    sinks = any(has_sinks(source.model, block) for block in range(source.model.n_layers))
    total = "at most 1, as sinks take a share," if sinks else "1"
    return Identity.held(
        f"attention rows sum to {total} and look at nothing ahead, nor beyond their window",
        error,
        _ROWS.bounds[source.model.dtype],
        _ROWS.unit,
        f"{_ROWS.reason}; the worst of all prompts",
    )


def check_heads(source: Source, token_ids: Sequence[Sequence[int]], moved: bool) -> list[Identity]:
    """Every identity on a few prompts, that of rows first.

    What heads write sums to the attention's output; with `moved` also made of weights and values.
    """
    checks, errors = [row_check(source, ids) for ids in token_ids], list[float]()

    def see(seen: Seen) -> None:
        errors.append(checks[seen.number](seen))

    source.watch(token_ids, see)
    identities = [_HEADS, _MOVED] if moved else [_HEADS]
    batch = make_batch(range(len(token_ids)), token_ids)
    measured = [identity.measure(source.model, batch) for identity in identities]
    return [rows_identity(source, worst(errors)), *measured]


def _moved_errors(model: LensModel, batch: Batch) -> list[float]:
    """Pattern times values through the output projection, against what attention puts out.

    Relative to the lengths of all of them, since heads cancel.
    """
    seen, errors = dict[int, dict[str, Tensor]](), list[float]()
    here = batch.attention_mask.bool().to(model.device)  # padding looks at padding

    def see(site: Site, value: Float[Tensor, "batch ..."]) -> None:
        own = seen.setdefault(site.layer, {})
        own[site.kind] = value.float()
        if len(own) == len(kinds):  # in whatever order the family passes them
            errors.append(_moved_error(model, site.layer, seen.pop(site.layer), here))

    kinds = (VALUES, "pattern", _OUTPUT)
    layers = range(1, model.n_layers + 1)
    watch(model, batch, [Site(kind, layer) for layer in layers for kind in kinds], see)
    return errors


def _moved_error(
    model: LensModel, layer: int, seen: Mapping[str, Tensor], here: Bool[Tensor, "batch pos"]
) -> float:
    """The worst token of one block; `here`: those that are no padding."""
    weight, wanted = output_weight(model, layer), seen[_OUTPUT]
    each = per_head(seen[VALUES], len(weight), model, layer)
    mixed = torch.einsum("bhqk,bkhd->bqhd", seen["pattern"], each)
    heads = torch.einsum("bqhd,hdm->bqhm", mixed, weight)
    off = heads.sum(2) + model.output_bias(layer) - wanted
    length = heads.norm(dim=-1).sum(-1) + wanted.norm(dim=-1)
    return float((off.norm(dim=-1) / length.clamp(min=_TINY))[here].max())


_MOVED = SiteIdentity(
    "weights times values through the heads' output projections = the attention's output",
    _moved_errors,
    _HEADS.bounds,
    _HEADS.unit,
    "one rounding per head and addition",
)
