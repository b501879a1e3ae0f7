"""Half a record: a part that was altered since is named, and never becomes numbers."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from lensbench.errors import Problem, RecordsError
from lensbench.records.parts import Part, Parts
from lensbench.records.schema import TABLES

ROWS = [
    {"model": "m", "prompt_id": str(i), "where": "w", "what": "x" * i, "remedy": "y"}
    for i in range(40)
]
TABLE = pa.Table.from_pylist(ROWS, schema=TABLES["problems"].schema)


def written(folder: Path) -> Parts:
    parts = Parts(folder)
    for number in range(2):
        parts.write(number, Part({"problems": TABLE}, [Problem("w", "x", "y")], {"n": number}))
    return parts


def read(parts: Parts) -> tuple[pa.Table, list[Problem], list[dict[str, int]]]:
    return parts.table("problems"), parts.problems, parts.notes


def test_a_bit_of_a_part_or_of_its_hash_is_noticed(tmp_path: Path) -> None:
    whole = read(written(tmp_path / "whole"))
    chance = random.Random(0)
    for i in range(60):
        parts = written(tmp_path / str(i))
        path = chance.choice(sorted(parts.folder.iterdir()))
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        with pytest.raises(RecordsError, match="altered"):
            assert read(parts) == whole


def test_a_bit_of_a_further_file_is_noticed_and_so_is_its_loss(tmp_path: Path) -> None:
    """Sums of a corpus are such files: what becomes of them looks like any other number."""
    name, data = "parts/sums-000000.bin", bytes(range(64))
    parts = Parts(tmp_path)
    parts.write(0, Part({"problems": TABLE}, files={name: data}))
    assert parts.file(0, name) == data
    for bit in range(8 * len(data)):
        other = bytearray(data)
        other[bit // 8] ^= 1 << bit % 8
        (tmp_path / name).write_bytes(other)
        with pytest.raises(RecordsError, match="it was altered after"):
            parts.file(0, name)
    (tmp_path / name).unlink()
    with pytest.raises(RecordsError, match=r"sums-000000\.bin"):
        parts.file(0, name)


def test_a_part_without_its_hash_is_done_again(tmp_path: Path) -> None:
    parts = written(tmp_path)
    (parts.folder / "000001.sha256").unlink()
    assert (parts.has(0), parts.has(1)) == (True, False)
