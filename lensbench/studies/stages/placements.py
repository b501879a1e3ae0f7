"""The placements of a placement study: which blocks, at which rank, so that all train as much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lensbench.checkpoints.open import empty_model, open_config, quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import InputProblems, Problem
from lensbench.quantized.adapters.lora import match
from lensbench.quantized.adapters.spec import Lora
from lensbench.spec import ranges
from lensbench.studies.specs.placement import PlacementSpec

SUGGESTED, RANDOM, COMPLEMENT, ALL = "suggested", "random block", "complement", "all blocks"
PLACEMENTS = (SUGGESTED, RANDOM, COMPLEMENT, ALL)


@dataclass(frozen=True)
class Placement:
    """Where an adapter is put, and what it may train."""

    name: str  # one of PLACEMENTS
    blocks: tuple[int, ...]  # 0-based
    lora: Lora
    n_trainable: int

    @property
    def folder(self) -> str:
        """Its name as a folder."""
        return self.name.replace(" ", "-")


def placements(spec: PlacementSpec, repetition: int) -> list[Placement]:
    """The placements of one repetition; the random block is another one in each, the rest the same.

    Raises InputProblems when the blocks leave nothing to compare, or no whole rank gives a
    placement exactly the suggested block's number of trained parameters.
    """
    with quiet():
        model = empty_model(open_config(ModelRef.of(spec.model).folder))
    suggested = match(model, _lora(spec, spec.blocks, spec.rank))
    blocks, n_layers = suggested.layers, suggested.n_layers
    if len(blocks) == n_layers:
        what = "the suggested block is the whole model, so there is nothing to compare it with"
        raise InputProblems([Problem("blocks", what, "Suggest fewer blocks.")])
    others = tuple(sorted(set(range(n_layers)) - set(blocks)))
    drawn = random_block(blocks, n_layers, spec.seed, repetition)
    placed = dict(zip(PLACEMENTS, (blocks, drawn, others, tuple(range(n_layers))), strict=True))
    budget = len(blocks) * spec.rank
    uneven = [name for name, own in placed.items() if budget % len(own)]
    if uneven:
        raise InputProblems([_uneven(spec, uneven, len(blocks), n_layers)])
    found = []
    for name, own in placed.items():
        lora = _lora(spec, ranges(own), budget // len(own))
        modules = [model.get_submodule(path) for path in match(model, lora).modules]
        trained = sum(lora.rank * sum(module.weight.shape) for module in modules)  # A and B
        found.append(Placement(name, own, lora, trained))
    if len({placement.n_trainable for placement in found}) > 1:
        shown = ", ".join(f"{placement.name}: {placement.n_trainable:,}" for placement in found)
        what = f"the blocks differ in size, so the placements train different numbers ({shown})"
        raise InputProblems([Problem("blocks", what, "Choose targets that are as large in all.")])
    return found


def random_block(
    blocks: Sequence[int], n_layers: int, seed: int, repetition: int
) -> tuple[int, ...]:
    """A contiguous block as large as `blocks`, and another one; a repetition's is not the last's.

    All there are come once, in an order that the seed draws, before any comes again.
    """
    k = len(blocks)
    starts = [s for s in range(n_layers - k + 1) if tuple(range(s, s + k)) != tuple(blocks)]
    order = np.random.default_rng(seed).permutation(starts)
    start = int(order[repetition % len(order)])
    return tuple(range(start, start + k))


def _lora(spec: PlacementSpec, blocks: str, rank: int) -> Lora:
    """The scale alpha / rank is the same in every placement."""
    own = {"blocks": blocks, "rank": rank, "alpha": spec.alpha_per_rank * rank}
    return Lora(**spec.shared(Lora) | own)


def _uneven(spec: PlacementSpec, uneven: Sequence[str], k: int, n_layers: int) -> Problem:
    step = math.lcm(n_layers, n_layers - k) // math.gcd(k, math.lcm(n_layers, n_layers - k))
    near = step * max(1, round(spec.rank / step))
    what = f"rank {spec.rank} in {k} of {n_layers} blocks gives no whole rank to: "
    what += ", ".join(uneven)
    return Problem("rank", what, f"Give {near}, or another multiple of {step}.")
