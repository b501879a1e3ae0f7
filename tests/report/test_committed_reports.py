"""What is committed under reports/ is what the committed records give, and the README quotes it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensbench.report.build import build_report

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
RUNS = sorted(
    {manifest.parents[1] for manifest in REPORTS.glob("*/*/manifest.json")}
    | {manifest.parent for manifest in REPORTS.glob("*/manifest.json")}  # of one record
)


def test_there_are_committed_records() -> None:
    assert RUNS


LITTLE = 800_000  # bytes of tables: a record of more takes a quarter of a minute or longer


def _cases() -> Iterator[Any]:
    """Every run, which is slow; and the smallest record of each kind alone."""
    yield from (pytest.param(run, id=run.name, marks=[pytest.mark.slow]) for run in RUNS)
    least: dict[str, Path] = {}
    for manifest in sorted([*REPORTS.glob("*/manifest.json"), *REPORTS.glob("*/*/manifest.json")]):
        record, kind = manifest.parent, json.loads(manifest.read_text(encoding="utf-8"))["kind"]
        least[kind] = min(least.get(kind, record), record, key=_size)
    for kind, record in least.items():
        if _size(record) < LITTLE:
            yield pytest.param(record, id=f"{kind}: {record.relative_to(REPORTS)}")


def _size(record: Path) -> int:
    """Bytes of its tables."""
    return sum(table.stat().st_size for table in record.glob("*.parquet"))


@pytest.mark.parametrize("folder", _cases())
def test_committed_reports_are_rebuilt_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    written = build_report([folder], tmp_path)
    assert written
    for path in written:
        committed = folder / path.relative_to(tmp_path)
        if path.name != "report.html":  # 5 MB of plotly: made anew, not committed
            assert committed.read_bytes() == path.read_bytes(), committed


NO_SHARES = ("calibration_share", "loss_share", "heads_share")  # ratios, and a difference


def _range(column: str) -> tuple[float, float]:
    """Between which numbers a quantity lies whose name says so; a change or a gain may be any."""
    words = column.split("_")
    if set(words) & {"change", "difference", "gain", "effect", "minus"} or column in NO_SHARES:
        return -math.inf, math.inf
    if words[-1] in ("prob", "share", "accuracy"):
        return 0.0, 1.0
    if words[-1] == "bits" and {*words[:-1]} <= {"entropy", "kl", "a", "b"}:
        return 0.0, math.inf
    return -math.inf, math.inf


def test_no_interval_ends_where_its_quantity_cannot_be() -> None:
    wrong, n = [], 0
    for path in sorted(REPORTS.rglob("tables/*.csv")):
        frame = pd.read_csv(path)
        for column in frame.filter(regex="_low$").columns.str.removesuffix("_low"):
            least, most = _range(column)
            low, high = frame[f"{column}_low"], frame[f"{column}_high"]
            out = (low < least) | (high > most)
            n += int(low.notna().sum()) if math.isfinite(least) else 0
            wrong += [f"{path}, row {row}: {column}" for row in out[out].index]
    assert n > 1000
    assert wrong == []


def _tables(text: str) -> set[str]:
    return {line for line in text.splitlines() if re.match(r"\| (?!-|model|what)", line)}


def test_every_table_row_of_the_readme_stands_in_a_committed_report() -> None:
    quoted = _tables((ROOT / "README.md").read_text(encoding="utf-8"))
    there = [path.read_text(encoding="utf-8") for path in REPORTS.rglob("*.md")]
    rows = set().union(*map(_tables, there))
    assert len(quoted) >= 8
    assert quoted <= rows, sorted(quoted - rows)


def test_every_file_the_readme_links_to_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
