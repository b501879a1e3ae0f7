"""The cells of a diff: both records' readings at one place, and what only both together give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float

from lensbench.compare.diff import changes as maths
from lensbench.compare.diff.pairs import LENS, by_layer
from lensbench.compare.diff.two_lenses import Kept
from lensbench.records.engine import Job
from lensbench.records.lens.record import LensRecord
from lensbench.records.parts import Part
from lensbench.records.schema.diff import DIFF_CELLS

RELATIVE_DEPTHS = np.linspace(0, 1, 21)  # where models of different depth are compared
# column of the cells -> of a lens record
_BOTH = {name: name for name in ("entropy_bits", "kl_bits", "answer_prob")}
_BOTH |= {"answer_rank": "answer_place"}


@dataclass(frozen=True, eq=False)
class Sides:
    """Two records side by side, over the prompts that both measured.

    `readings`: by column, NaN where a record has none. Places are the layers, or shares of the
    depth where the models differ in it; then neither top tokens nor vectors are compared.
    """

    prompts: pd.DataFrame  # as the first record has them, by prompt_id
    depths: Float[np.ndarray, " place"]
    readings: dict[str, Float[np.ndarray, "prompt place"]]
    top1_same: Bool[np.ndarray, "prompt place"] | None
    kept: Kept


def side_by_side(a: LensRecord, b: LensRecord, prompts: pd.DataFrame, kept: Kept) -> Sides:
    """Both records' readings of these prompts, at the places where they can be compared."""
    alike = a.n_layers == b.n_layers
    depths = np.arange(a.n_layers + 1) / a.n_layers if alike else RELATIVE_DEPTHS
    readings = {}
    for name, read in _BOTH.items():
        for side, record in (("a", a), ("b", b)):
            values = by_layer(record, read, prompts.index).to_numpy(dtype=np.float64)
            if not alike:
                own = np.arange(record.n_layers + 1) / record.n_layers
                values = maths.at_depths(values, own, depths)
            readings[f"{name}_{side}"] = values
    top1_same = _top1_same(a, b, prompts.index) if alike else None
    return Sides(prompts, depths, readings, top1_same, kept)


def _top1_same(a: LensRecord, b: LensRecord, ids: pd.Index) -> Bool[np.ndarray, "prompt place"]:
    """Whether both lenses have the same top token."""
    first = (record.first_by_layer("top_ids", ids, LENS).reindex(ids) for record in (a, b))
    ours, theirs = (tops.astype(int).to_numpy() for tops in first)
    return np.asarray(ours == theirs)


def compare_place(sides: Sides, job: Job[int]) -> Part:
    """The cells of every prompt at one place."""
    place = job.item
    columns: dict[str, Any] = {
        "prompt_id": sides.prompts.index,
        "relation": sides.prompts["relation"].to_numpy(),
        "layer": None if sides.top1_same is None else place,
        "depth": sides.depths[place],
    }
    columns |= {name: values[:, place] for name, values in sides.readings.items()}
    ranks = columns["answer_rank_a"], columns["answer_rank_b"]
    columns["answer_rank_log2_change"] = maths.rank_change(*ranks)
    columns["top1_same"] = None if sides.top1_same is None else sides.top1_same[:, place]
    moved, errors = sides.kept.compare(place)
    return Part(
        {"diff_cells": as_table(pd.DataFrame(columns | moved), DIFF_CELLS.schema)}, notes=errors
    )


def by_prompt(cells: pa.Table, n_places: int) -> pa.Table:
    """Cells place by place as cells prompt by prompt."""
    rows = np.arange(len(cells)).reshape(n_places, -1).T.reshape(-1)
    return cells.take(pa.array(rows))


def as_table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """NaN becomes null."""
    arrays = [pa.array(frame[field.name], from_pandas=True).cast(field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)
