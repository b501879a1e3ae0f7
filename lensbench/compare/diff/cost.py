"""What comparing two lens records takes, layer by layer."""

from __future__ import annotations

from lensbench.compare.diff.tables import TESTED
from lensbench.costs.cost import Cost
from lensbench.costs.planned import Jobs
from lensbench.costs.shape import Shape

_UNTIMED = "distributions and intervals take longer than the products of the head"


def comparison(shape: Shape, n_layers: int, n_prompts: int) -> Jobs[int]:
    """A job for each layer: both records' vectors are read again by the head."""
    places = range(n_layers + 1)
    one = Cost(flops=2.0 * n_prompts * shape.row_flops, rows={"diff_cells": n_prompts})
    rows = {"diff_prompts": n_prompts, "diff_layers": len(TESTED) * len(places)}
    once = Cost(rows=rows)
    return Jobs([list(places)], lambda _: one, once, n_prompts, n_models=2, untimed=_UNTIMED)
