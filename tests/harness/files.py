"""Small files that tests write and read."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from lensbench.records.read import sealed

CONFIGS = Path(__file__).parents[1] / "configs"  # of published models
UNEQUAL = ("manifest.json", ".lock")  # of two equal runs: one has times in it, the other may stay


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Every column that a row has, in order of appearance."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def manifest(folder: Path) -> dict[str, Any]:
    """What a record says of itself."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """A manifest as a run leaves it, but for the checksums: its tables may be made or changed."""
    rest = {key: value for key, value in manifest.items() if key != "checksums"}
    text = json.dumps(sealed(rest), indent=1)
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a record's table."""
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def tables(record: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pq.read_table(path).to_pandas() for path in record.glob("*.parquet")}


def table_bytes(record: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in record.glob("*.parquet")}


def contents(folder: Path, without: Sequence[str] = (".lock",)) -> dict[str, bytes]:
    """Every file under a folder but those of these names, or in folders of these names."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = [path for path in paths if not {*path.parts} & {*without}]
    return {path.as_posix(): (folder / path).read_bytes() for path in kept}


def names_in(folder: Path) -> list[str]:
    """What lies in a folder but its lock, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")
