"""The schema: every column says what it is; the committed records and the docs keep to it."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensbench.records.dictionary import dictionary
from lensbench.records.manifest import new_manifest
from lensbench.records.read import read_manifest, read_table
from lensbench.records.schema import KINDS, TABLES
from lensbench.records.schema.declare import TEXT, Column, Table
from lensbench.records.schema.every import MANIFEST_ENTRIES, PROBLEMS
from lensbench.records.store import RecordStore

REPORTS = Path(__file__).parents[2] / "reports"
RECORDS = sorted(
    manifest.parent
    for where in ("*/manifest.json", "*/*/manifest.json")
    for manifest in REPORTS.glob(where)
)
COLUMNS = [
    pytest.param(column, id=f"{table.name}.{column.name}")
    for table in TABLES.values()
    for column in table.columns
]
UNITS = {"_bits": "bits", "_tokens": "tokens", "_prob": "0..1", "depth": "0..1", "_share": "0..1"}


def test_the_dictionary_in_the_tree_is_that_of_the_schema() -> None:
    there = (REPORTS / "data-dictionary.md").read_text(encoding="utf-8")
    again = "Run: python -m lensbench.records.dictionary reports/data-dictionary.md"
    assert there == dictionary(), again


def test_the_readme_leads_to_the_dictionary() -> None:
    assert "(reports/data-dictionary.md)" in (REPORTS.parent / "README.md").read_text("utf-8")


def test_the_dictionary_names_every_table_column_and_kind() -> None:
    text = dictionary()
    for table in TABLES.values():
        section = text.split(f"## {table.name}\n")[1].split("\n## ")[0]
        assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == table.names
    for kind in KINDS.values():
        assert f"| {kind.name} | {kind.made_by} |" in text


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_says_what_it_is_in_its_unit(column: Column) -> None:
    assert column.meaning
    for ending, unit in UNITS.items():
        if "string" not in str(column.type) and re.search(rf"{ending}(_a|_b)?$", column.name):
            assert unit in column.unit


def test_a_name_is_given_once() -> None:
    for table in TABLES.values():
        assert len(set(table.names)) == len(table.names)
    declared = [t for kind in KINDS.values() for t in (*kind.tables, *kind.optional)]
    assert all(TABLES[table.name] is table for table in declared)


def test_every_kind_says_what_could_not_be_measured() -> None:
    assert all(PROBLEMS in kind.tables for kind in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_manifest_has_the_declared_entries(kind: str) -> None:
    needed = {entry.name for entry in MANIFEST_ENTRIES if not entry.absent}
    assert set(new_manifest({}, {}, kind)) == needed


@pytest.mark.parametrize("folder", RECORDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_committed_records_keep_to_the_schema(folder: Path) -> None:
    manifest = read_manifest(folder / "manifest.json")
    kind = KINDS[manifest["kind"]]
    entries = (*MANIFEST_ENTRIES, *kind.entries)
    assert set(manifest) <= {entry.name for entry in entries}
    for entry in entries:
        assert entry.absent or entry.name in manifest
        assert entry.null or manifest.get(entry.name, "absent") is not None
    for table in kind.tables:
        read_table(folder, table.name).cast(table.schema)  # what may not be null is not


def test_a_null_without_a_meaning_is_not_written(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, "m")
    row = {"model": "m", "prompt_id": None, "where": "w", "what": "x", "remedy": "r"}
    store.write_table("problems", [pa.Table.from_pylist([row])])
    assert pq.read_table(tmp_path / "problems.parquet").schema.equals(PROBLEMS.schema)
    with pytest.raises(ValueError, match="'remedy' with null values"):
        store.write_table("problems", [pa.Table.from_pylist([row | {"remedy": None}])])


def test_a_column_is_one_line() -> None:
    """What the contract and the dictionary need of a new column is its declaration."""
    table = Table("t", "one row per x", (Column("n", pa.int32(), "how many", "x", "none"),))
    assert table.schema == pa.schema([pa.field("n", pa.int32(), nullable=True)])
    assert Column("s", TEXT, "a name").field.nullable is False


def test_an_entry_that_no_kind_declares_is_not_written(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, "m", "diff")
    store.write_manifest(new_manifest({}, {}, "diff") | {"lenses_reason": None})
    with pytest.raises(ValueError, match="declares no stored_kl_bits for diff"):
        store.write_manifest(new_manifest({}, {}, "diff") | {"stored_kl_bits": 0.0})
