"""Bytes on the disk that are worked out from rows, held to the records of this repository."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import lensbench
from lensbench.costs.cost import Cost
from lensbench.costs.disk import ROW_BYTES, record_bytes, running_bytes
from lensbench.json_text import read_json

REPORTS = Path(lensbench.__file__).parents[1] / "reports"
# Kinds whose rows are counted beforehand.
PLANNED = ("lens", "attention", "lens_fit", "sampling", "senses", "lens_transfer")
PLANNED += ("evaluation", "training", "placement", "classification", "diff")
RECORDS = [
    path.parent
    for path in sorted(REPORTS.rglob("manifest.json"))
    if read_json(path)["kind"] in PLANNED
]


def rows_of(table: Path) -> dict[str, int]:
    """A table's rows, and the items of its lists that are counted by themselves."""
    found, name = pq.read_table(table), table.stem
    lists = [one for one in found.column_names if f"{name}.{one}" in ROW_BYTES]
    items = {f"{name}.{one}": found[one].combine_chunks().flatten() for one in lists}
    return {name: len(found)} | {key: len(own) for key, own in items.items()}


@pytest.mark.parametrize("folder", RECORDS, ids=lambda own: str(own.relative_to(REPORTS)))
def test_a_record_takes_what_its_rows_were_worked_out_to(folder: Path) -> None:
    tables = sorted(folder.glob("*.parquet"))
    rows = {key: n for table in tables for key, n in rows_of(table).items()}
    cost = Cost(rows=rows)
    told = record_bytes(cost, [table.stem for table in tables])
    taken = sum(path.stat().st_size for path in (*tables, folder / "manifest.json"))
    assert told.low <= taken <= told.high
    assert running_bytes(cost, rows.keys() & {one.stem for one in tables}).high >= taken


def test_the_records_of_both_real_models_are_among_them() -> None:
    assert {"smollm2-135m", "gemma3-270m"} <= {folder.name for folder in RECORDS}
