"""Rows in the order of what they are of: as a stable sort gives them, a stretch at a time."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.records.parts import Ordered, Part, Parts, in_order
from lensbench.records.schema.lens import LENS
from lensbench.records.store import RecordStore
from tests.harness.lens_rows import READING

_SCHEMA = pa.schema([("item", pa.string()), ("row", pa.int64())])
_NAMES = [f"p{i}" for i in range(700)]  # three stretches


def table(items: Sequence[str], first: int = 0) -> pa.Table:
    return pa.table({"item": list(items), "row": range(first, first + len(items))}, _SCHEMA)


def pieces(items: Sequence[str], cuts: Sequence[int]) -> list[pa.Table]:
    whole = table(items)
    ends = sorted({min(cut, len(items)) for cut in cuts} | {0, len(items)})
    return [whole.slice(a, b - a) for a, b in pairwise(ends)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.sampled_from(_NAMES[:5] + _NAMES[255:258] + _NAMES[-2:] + ["unasked"]), max_size=60
    ),
    st.lists(st.integers(0, 60), max_size=6),
    st.randoms(use_true_random=False),
)
def test_rows_are_those_of_a_stable_sort_however_they_were_cut(
    items: list[str], cuts: list[int], chance: random.Random
) -> None:
    ids = chance.sample(_NAMES, len(_NAMES))
    place = {name: i for i, name in enumerate(ids)}
    kept = [(name, row) for row, name in enumerate(items) if name in place]
    expected = sorted(kept, key=lambda one: place[one[0]])
    with tempfile.TemporaryDirectory() as folder:
        ordered = Ordered(Path(folder) / "o", pieces(items, cuts), _SCHEMA, "item", ids)
        for _ in range(2):  # it can be gone through again
            rows = [row for piece in ordered for row in piece.to_pylist()]
            assert [(row["item"], row["row"]) for row in rows] == expected
    whole = in_order(table(items), "item", ids).to_pylist()
    assert [(row["item"], row["row"]) for row in whole] == expected


def test_never_more_than_a_stretch_is_in_memory(tmp_path: Path) -> None:
    many = [f"p{i}" for i in range(5000)]
    ordered = Ordered(tmp_path / "o", [table(many[::-1])], _SCHEMA, "item", many)
    lengths = [len(piece) for piece in ordered]
    assert max(lengths) == 256
    assert sum(lengths) == 5000


def test_what_a_killed_run_left_is_not_mixed_in(tmp_path: Path) -> None:
    Ordered(tmp_path / "o", [table(["a", "b"])], _SCHEMA, "item", ["a", "b"])
    again = Ordered(tmp_path / "o", [table(["b"])], _SCHEMA, "item", ["a", "b"])
    assert [row["item"] for piece in again for row in piece.to_pylist()] == ["b"]


def test_a_table_written_stretch_by_stretch_has_the_bytes_of_one_written_whole(
    tmp_path: Path,
) -> None:
    ids = [f"p{i:04d}" for i in range(600)]
    rows = [READING | {"prompt_id": name, "layer": i} for i in range(4) for name in ids[::-1]]
    whole = pa.Table.from_pylist(rows, LENS.schema)
    parts = Parts(tmp_path / "record")
    for number, start in enumerate(range(0, len(rows), 97)):
        parts.write(number, Part({"lens": whole.slice(start, 97)}))
    made = {}
    for name, pieces in (
        ("whole", [in_order(whole, "prompt_id", ids)]),
        ("pieces", parts.ordered("lens", "prompt_id", ids)),
    ):
        RecordStore(tmp_path / name, "m").write_table("lens", pieces)
        made[name] = (tmp_path / name / "lens.parquet").read_bytes()
    assert made["whole"] == made["pieces"]
