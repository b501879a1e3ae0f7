"""What a residual cache is made of: a batch through the model, the gate, and to disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import InputProblems, Problem
from lensbench.lens.base import Final
from lensbench.lens.gate import last_layer_kl_bits, lens_identity, require
from lensbench.lens.logit import not_finite_problem
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.encode import EncodedPrompt
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.residuals.capture import Residuals, capture_positions
from lensbench.residuals.store import Kept, KeptPrompt, keep, kept_part


@dataclass(frozen=True)
class Keeper:
    """The model, what is kept of it in which number format, and what the shards are of."""

    model: LensModel
    sites: list[Site]
    dtype: torch.dtype
    record: str


def keep_all(
    encoded: Sequence[EncodedPrompt], positions: Kept, n_ctx: int
) -> tuple[list[KeptPrompt], list[Problem]]:
    """What is kept of each prompt; raises InputProblems when that fits the model for none."""
    kept, problems = [], []
    for prompt in encoded:
        try:
            kept.append(keep(prompt, positions, n_ctx))
        except InputProblems as error:
            problems += error.problems
    if not kept:
        raise InputProblems(problems)
    return kept, problems


def keep_batch(keeper: Keeper, job: Job[list[KeptPrompt]]) -> Part:
    """The residuals of one batch; prompts that give NaN or Inf are skipped."""
    kept, residuals, problems = _captured(keeper, job.item)
    notes: dict[str, float | None] = {"gate_kl_bits": None, "stored_kl_bits": None}
    stream: dict[Site, Float[Tensor, "cell d_model"]] = {}
    if residuals is not None:
        notes = _gate(keeper, residuals)
        stream = {site: residuals.at(site).to(keeper.dtype) for site in keeper.sites}
    tables, files = kept_part(job.number, keeper.model, kept, stream, keeper.record)
    return Part(tables, problems, notes, files)


def _captured(
    keeper: Keeper, kept: Sequence[KeptPrompt]
) -> tuple[Sequence[KeptPrompt], Residuals | None, list[Problem]]:
    """One batch's residuals, without the prompts that give NaN or Inf: it runs again for them."""
    model, problems = keeper.model, list[Problem]()
    last = model.final_site  # the gate reads it
    sites = keeper.sites if last in keeper.sites else [*keeper.sites, last]
    while kept:
        ids, positions = [item.token_ids for item in kept], [item.positions for item in kept]
        residuals = capture_positions(model, ids, positions, sites)
        broken = residuals.broken_rows()
        if not broken:
            return kept, residuals, problems
        problems += [not_finite_problem(model, kept[r].prompt) for r in sorted(broken)]
        kept = [item for row, item in enumerate(kept) if row not in broken]
    return [], None, problems


def _gate(keeper: Keeper, residuals: Residuals) -> dict[str, float | None]:
    """The last layer is the model, and how far what goes to disk is from it."""
    final = Final(keeper.model)
    live = stored = float(last_layer_kl_bits(keeper.model, residuals, final).max())
    require([lens_identity(keeper.model, live)])
    if keeper.dtype != residuals.stream.dtype:
        rounded = residuals.stream.to(keeper.dtype).float()
        as_stored = dataclasses.replace(residuals, stream=rounded)
        stored = float(last_layer_kl_bits(keeper.model, as_stored, final).max())
    return {"gate_kl_bits": live, "stored_kl_bits": stored}
