"""Parts: in order with their problems and notes, each there entirely or not at all."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lensbench.errors import Problem
from lensbench.records.parts import Part, Parts
from lensbench.records.schema.generation import ACTIVATIONS
from lensbench.records.schema.lens import LENS
from tests.harness.files import names_in
from tests.harness.lens_rows import lens_table

PROBLEM = Problem("set.csv, row 3, id b", "the prompt is empty", "Write a prompt.", "b")


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "record")


def test_parts_come_back_in_order_with_their_problems_and_notes(parts: Parts) -> None:
    parts.write(1, Part({"lens": lens_table(2)}, [], {"gate": 3e-6}))
    parts.write(0, Part({"lens": lens_table(0, 1)}, [PROBLEM], {"gate": 2e-6}))
    lens = parts.table("lens")
    assert lens["layer"].to_pylist() == [0, 1, 2]
    assert lens.schema.equals(LENS.schema)
    assert lens.schema.metadata is None
    assert (parts.problems, parts.notes) == ([PROBLEM], [{"gate": 2e-6}, {"gate": 3e-6}])


def test_a_part_of_problems_alone_has_no_rows_and_no_notes(parts: Parts) -> None:
    parts.write(0, Part({"lens": LENS.schema.empty_table()}, [PROBLEM]))
    assert (parts.table("lens").num_rows, parts.problems, parts.notes) == (0, [PROBLEM], [{}])


def test_no_part_gives_an_empty_table(parts: Parts) -> None:
    assert parts.table("lens").equals(LENS.schema.empty_table())
    assert (parts.problems, parts.notes, parts.numbers) == ([], [], [])


def test_a_part_is_there_only_when_all_its_tables_are(parts: Parts) -> None:
    activations = ACTIVATIONS.schema.empty_table()
    parts.write(0, Part({"lens": lens_table(0), "activations": activations}))
    assert parts.table("activations").equals(activations)
    (parts.folder / "000000.parquet").unlink()
    assert not parts.has(0)


def test_a_table_that_only_some_parts_have_is_theirs(parts: Parts) -> None:
    """Heat maps of a run that keeps residuals keep none."""
    parts.write(0, Part({"lens": lens_table(0)}))
    assert parts.table("activations").equals(ACTIVATIONS.schema.empty_table())


def test_further_files_are_in_the_record_before_the_part_is(parts: Parts, tmp_path: Path) -> None:
    parts.write(0, Part({"lens": lens_table(0)}, files={"residuals/0.bin": b"abc"}))
    assert (tmp_path / "record" / "residuals" / "0.bin").read_bytes() == b"abc"
    with pytest.raises(pa.ArrowException):
        parts.write(1, Part({"lens": Unwritable()}, files={"residuals/1.bin": b"abc"}))
    assert parts.numbers == [0]


class Unwritable:
    """A table that fails when it is written."""

    def replace_schema_metadata(self, _: object) -> pa.Table:
        raise pa.ArrowException


def test_a_torn_temporary_file_is_no_part(parts: Parts) -> None:
    parts.write(0, Part({"lens": lens_table(0)}))
    (parts.folder / ".000001.parquet.abc123.part").write_bytes(b"PAR1 half of it")
    assert (parts.has(0), parts.has(1), parts.numbers) == (True, False, [0])
    assert parts.table("lens").num_rows == 1


def test_dropped_parts_leave_the_record(parts: Parts, tmp_path: Path) -> None:
    parts.write(0, Part({"lens": lens_table(0)}, files={"kept.bin": b"abc"}))
    parts.drop()
    assert names_in(tmp_path / "record") == ["kept.bin"]
