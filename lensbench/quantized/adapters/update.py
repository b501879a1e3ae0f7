"""What an adapter changes: the update scale * B A of each module, from its two small factors.

With B = Qb Rb and A' = Qa Ra, the update's singular values are those of the rank x rank matrix
scale * Rb Ra', so the full matrix is never made. All in float64.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.open import open_config, quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.checkpoints.weights import open_weights
from lensbench.errors import LensbenchError, ModelError
from lensbench.quantized.adapters.adapter import other_base, read_config, read_weights
from lensbench.quantized.adapters.initial import KEY, changes_base, leaving_base_alone, scale_of

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Update:
    """The update of one module: scale * up @ down (PEFT's B and A)."""

    module: str
    up: Float[Tensor, "out rank"]
    down: Float[Tensor, "rank in"]
    scale: float

    @property
    def block(self) -> int | None:
        """The block it is in, counted from 0; None outside the blocks."""
        found = re.search(r"\.(\d+)\.", self.module)
        return int(found[1]) if found else None

    @property
    def rank(self) -> int:
        """The rank that it may have at most."""
        return int(self.down.shape[0])

    def singular_values(self) -> Float[Tensor, " rank"]:
        """Largest first; as many as the rank, the rest of the update's being zero."""
        up = torch.linalg.qr(self.up, mode="r").R
        down = torch.linalg.qr(self.down.T, mode="r").R
        return self.scale * torch.linalg.svdvals(up @ down.T)

    def norm(self) -> float:
        """Frobenius norm."""
        return math.sqrt(max(inner(self, self), 0.0))


def effective_rank(singular_values: Float[Tensor, " rank"]) -> float | None:
    """exp of the entropy of the singular values' shares of their sum (Roy & Vetterli 2007).

    From 1 to the rank. None for an update of zeros, which has no spectrum.
    """
    total = singular_values.sum()
    if total == 0:
        return None
    shares = singular_values / total
    return float(torch.exp(torch.special.entr(shares).sum()))


def inner(a: Update, b: Update) -> float:
    """Frobenius inner product of two updates of one module: the trace of a' b."""
    return float(a.scale * b.scale * ((a.up.T @ b.up) * (a.down @ b.down.T)).sum())


def read_updates(folder: Path, base: Callable[[], nn.Module] | None = None) -> dict[str, Update]:
    """The updates of an adapter by module: merged weight minus the base's.

    `base` gives the base's weights; an adapter that began with a part of them (PiSSA, OLoRA) needs
    it. Raises ModelError when it is missing, when the adapter cannot be read, or holds anything
    besides pairs of factors (as DoRA or trained biases do), for then the update is not their
    product.
    """
    config, weights = leaving_base_alone(folder, read_config(folder), read_weights(folder), base)
    factors: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, weight in weights.items():
        found = KEY.fullmatch(key)
        if found is None:
            strange.append(key)
        else:
            factors.setdefault(found["module"], {})[found["factor"]] = weight.double()
    strange += [f"half of {module}" for module, own in factors.items() if len(own) < 2]
    if strange or config.get("use_dora") or config.get("peft_type") != "LORA":
        what = ", ".join(sorted(strange)[:5]) or config.get("peft_type")
        raise ModelError(f"{folder} is no plain LoRA adapter ({what}), so it has no update B A.")
    return {
        module: Update(module, own["B"], own["A"], scale_of(config, module, own["A"].shape[0]))
        for module, own in sorted(factors.items(), key=lambda item: _place(item[0]))
    }


def update_norms(folder: Path, base: ModelRef, n_layers: int) -> dict[str, Any]:
    """For a manifest: block by block, the Frobenius norm of all that an adapter adds to it.

    `adapter_update_norms` is 0 for a block where it adds nothing; null for an adapter that changes
    anything but products of two factors inside the blocks, with the reason in
    `adapter_norms_reason`.
    """
    try:
        updates = read_updates(folder, lambda: base_of(base.name, folder))
    except ModelError as error:  # such as DoRA, or biases that were trained
        return {"adapter_update_norms": None, "adapter_norms_reason": str(error)}
    outside = [update.module for update in updates.values() if update.block is None]
    if outside:
        reason = f"it changes {outside[0]}, which is in no block"
        return {"adapter_update_norms": None, "adapter_norms_reason": reason}
    squared = [0.0] * n_layers
    for update in updates.values():
        if update.block is not None and update.block < n_layers:
            squared[update.block] += update.norm() ** 2
    return {"adapter_update_norms": [value**0.5 for value in squared]}


def _place(module: str) -> list[Any]:
    """Blocks in the order of their numbers."""
    return [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in module.split(".")]


def show(updates: Mapping[str, Update], base: nn.Module | None = None) -> list[dict[str, Any]]:
    """One row a module: norm and effective rank of its update, relative to the base's weight.

    `norm_relative` is null without `base`, `effective_rank` for an update of zeros.
    """
    rows = []
    for update in updates.values():
        values = update.singular_values()
        norm = float(values.norm())
        whole = _weight_norm(base, update.module) if base is not None else None
        rows.append(
            {
                "block": update.block,
                "module": update.module,
                "rank": update.rank,
                "norm": norm,
                "norm_relative": norm / whole if whole is not None else None,
                "effective_rank": effective_rank(values),
            }
        )
    return rows


def _weight_norm(base: nn.Module, module: str) -> float:
    """Frobenius norm of a module's own weight. Raises ModelError when there is no such module."""
    try:
        weight = base.get_submodule(module).get_parameter("weight")
    except AttributeError as error:
        raise ModelError(f"The base has no module {module}, which the adapter updates.") from error
    return float(weight.detach().double().norm())


def diff(a: Mapping[str, Update], b: Mapping[str, Update]) -> list[dict[str, Any]]:
    """One row a module of either adapter: both norms, the norm of b - a, and their cosine.

    A module that one adapter lacks counts as an update of zeros there; then, as for any update of
    zeros, the cosine is null. Raises ModelError when a module has other shapes in the two.
    """
    rows = []
    for module in sorted({*a, *b}, key=_place):
        one, other = a.get(module), b.get(module)
        norms = [update.norm() if update is not None else 0.0 for update in (one, other)]
        product = _product(one, other)
        squared = norms[0] ** 2 + norms[1] ** 2 - 2 * product
        both = norms[0] * norms[1]
        rows.append(
            {
                "module": module,
                "in": "both" if one and other else "first" if one else "second",
                "norm_first": norms[0],
                "norm_second": norms[1],
                "norm_difference": math.sqrt(max(squared, 0.0)),
                "cosine": product / both if both else None,
            }
        )
    return rows


def _product(a: Update | None, b: Update | None) -> float:
    if a is None or b is None:
        return 0.0
    if (a.up.shape[0], a.down.shape[1]) != (b.up.shape[0], b.down.shape[1]):
        raise ModelError(f"{a.module} has other shapes in the two adapters: they share no base.")
    return inner(a, b)


def base_for(adapter: Path, model: str | None) -> Callable[[], nn.Module] | None:
    """The base under this name; without one the base that the adapter's own config names.

    The latter only where the adapter's update cannot be told without it: None otherwise. Raises
    ModelError when it is needed and is not there.
    """
    if model is not None:
        return lambda: base_of(model, adapter)
    config = read_config(adapter)
    if not changes_base(config):
        return None
    named = str(config.get("base_model_name_or_path") or "")
    beside = adapter.resolve().parent / named
    name = str(beside) if named and beside.is_dir() else named
    try:
        ModelRef.of(name).folder  # noqa: B018  is it there?
    except LensbenchError:
        return None
    _log.info("the base is %s, as the adapter's config names it", named)
    return lambda: base_of(name, adapter)


def base_of(name: str, adapter: Path) -> nn.Module:
    """The model that an adapter was trained on, its weights as they are stored.

    Raises ModelError when its weights or its config are others than those.
    """
    folder = ModelRef.of(name).folder
    if other := other_base(adapter, hashes(folder)):
        raise ModelError(f"{adapter} does not belong to {name}: {'; '.join(other)}.")
    config = open_config(folder)
    with quiet():
        return open_weights(folder, config.dtype or torch.float32)


def totals(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The norm of each block's updates together: the root of the sum of squares."""
    blocks: dict[int | None, float] = {}
    for row in rows:
        blocks[row["block"]] = blocks.get(row["block"], 0.0) + row["norm"] ** 2
    for block, squared in blocks.items():
        yield {"block": block, "norm": math.sqrt(squared)}
