"""The table of circuits: what each head copies, and whose outputs it reads most."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from lensbench.attention.circuits.composition import MODES, compositions, random_ratios
from lensbench.attention.circuits.copying import copying
from lensbench.attention.circuits.weights import head_weights
from lensbench.models.model import LensModel
from lensbench.records.schema.attention import CIRCUITS
from lensbench.stats.resampling import CONFIDENCE


def circuits_table(model: LensModel) -> pa.Table:
    """One row per block and head. Raises ModelError where heads have no weights to read."""
    rows = [
        {
            "model": model.name,
            "block": one.block,
            "head": head,
            "copying": _known(one.eigenvalues[head]),
            "own_rank": _known(one.own_rank[head]),
            **dict.fromkeys(CIRCUITS.names[5:]),
        }
        for one in copying(model)
        for head in range(model.n_heads)
    ]
    place = {(row["block"], row["head"]): row for row in rows}
    d_head = int(next(head_weights(model)).v.shape[-1])
    random = random_ratios(model.d_model, d_head)
    for found in compositions(head_weights(model)):
        for head in range(model.n_heads):
            row = place[found.block_b, head]
            n_before = found.block_b * model.n_heads
            row["random_ratio_high"] = highest_of(random, n_before)
            for mode in MODES:
                _keep_best(row, mode, found.block_a, found.ratio[mode][:, head])
    return CIRCUITS.of_rows(rows)


def _keep_best(row: dict[str, Any], mode: str, block: int, ratios: Float[Tensor, " head"]) -> None:
    """The earlier head with the highest ratio so far."""
    best = int(ratios.nan_to_num(-1).argmax())
    value, so_far = _known(ratios[best]), row[f"{mode}_ratio"]
    if value is not None and (so_far is None or value > so_far):
        row |= {f"{mode}_block": block, f"{mode}_head": best, f"{mode}_ratio": value}


def _known(number: Tensor) -> float | None:
    """A number; None of NaN."""
    return None if bool(number.isnan()) else float(number)


def highest_of(random: Float[Tensor, " draw"], n: int) -> float:
    """What the highest of n such numbers exceeds in 5 % of draws; they are near normal."""
    at = float(norm.ppf(CONFIDENCE ** (1 / n)))
    return float(random.mean() + at * random.std())
