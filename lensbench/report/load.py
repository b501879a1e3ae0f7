"""Records found and read: complete and of a known schema, or an error with a remedy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lensbench.errors import RecordsError
from lensbench.records.schema import KINDS, MILESTONES, SCHEMA_VERSION, TABLES
from lensbench.records.store import MANIFEST


@dataclass(frozen=True, eq=False)
class Record:
    """What one run measured on one model: the manifest and the four tables."""

    model: str  # the name a report shows; unique among the records of one report
    folder: Path
    manifest: dict[str, Any]
    prompts: pd.DataFrame
    lens: pd.DataFrame
    milestones: pd.DataFrame
    problems: pd.DataFrame

    @property
    def n_layers(self) -> int:
        """Number of blocks: layer `n_layers` is the last one, layer 0 the embedding."""
        return int(self.manifest["model"]["n_layers"])

    @property
    def lenses(self) -> list[str]:
        """The lenses that were measured, in the order of the settings."""
        return list(self.manifest["settings"]["lenses"])

    @property
    def main_lens(self) -> str:
        """The lens of the headline numbers: `final`, unless the run left it out."""
        return "final" if "final" in self.lenses else self.lenses[0]


def find_records(paths: Sequence[Path]) -> list[Path]:
    """All record folders at or beneath `paths`, each once, sorted within a path."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise RecordsError(
                f"{path}: no such folder. Name a run folder made by `lensbench run`."
            )
        for manifest in sorted(path.rglob(MANIFEST)):
            found.setdefault(manifest.parent.resolve(), manifest.parent)
    if not found:
        names = ", ".join(str(path) for path in paths)
        raise RecordsError(
            f"{names}: no records here (no {MANIFEST} in it or beneath it). "
            "Name a run folder made by `lensbench run` or `lensbench lens --prompts`."
        )
    return list(found.values())


def load_records(paths: Sequence[Path]) -> list[Record]:
    """Read every record beneath `paths`; equal model names get their run folder's name added."""
    records = [load_record(folder) for folder in find_records(paths)]
    seen = Counter(record.model for record in records)
    records = [
        replace(record, model=f"{record.model} ({record.folder.resolve().parent.name})")
        if seen[record.model] > 1
        else record
        for record in records
    ]
    twice = [name for name, n in Counter(record.model for record in records).items() if n > 1]
    if twice:
        raise RecordsError(
            f"two records are both called {twice[0]!r}, so a report could not tell them apart. "
            "Give their run folders different names, or report on them separately."
        )
    return records


def load_record(folder: Path) -> Record:
    """Read one record folder; RecordsError names the file and the remedy."""
    manifest = read_manifest(folder / MANIFEST)
    tables = {name: _read_table(folder / f"{name}.parquet", name) for name in KINDS["lens"]}
    for name in MILESTONES:  # from the layers: what a verdict rests on is derived, not trusted
        layer = tables["milestones"][f"{name}_layer"].astype(float)
        tables["milestones"][f"{name}_depth"] = layer / manifest["model"]["n_layers"]
    return Record(model=manifest["model"]["name"], folder=folder, manifest=manifest, **tables)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a complete record of a known schema."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordsError(f"{path}: not JSON ({error}). Run the analysis again.") from error
    if not isinstance(manifest, dict):
        raise RecordsError(f"{path}: not a lensbench manifest. Run the analysis again.")
    version = manifest.get("schema_version")
    if not isinstance(version, int):
        raise RecordsError(f"{path}: no schema_version. This is not a lensbench record.")
    if version > SCHEMA_VERSION:
        raise RecordsError(
            f"{path}: schema_version {version} is newer than this lensbench can read "
            f"({SCHEMA_VERSION}). Upgrade lensbench."
        )
    if manifest.get("status") != "complete":
        raise RecordsError(
            f"{path}: the run is not complete (status {manifest.get('status')!r}). "
            "Run the same command again: it goes on where it stopped."
        )
    missing = [key for key in ("model", "settings", "gate") if key not in manifest]
    if missing:
        raise RecordsError(f"{path}: no {', '.join(missing)} in it. Run the analysis again.")
    return manifest


def _read_table(path: Path, name: str) -> pd.DataFrame:
    """One table with the columns of its schema; others are left out."""
    if not path.exists():
        raise RecordsError(f"{path}: this table is missing. Run the analysis again.")
    wanted = TABLES[name].names
    try:
        columns = pq.read_schema(path).names
        missing = [column for column in wanted if column not in columns]
        if missing:
            raise RecordsError(
                f"{path}: no column {', '.join(missing)}. "
                "The records are older than this lensbench or damaged: run the analysis again."
            )
        return pq.read_table(path, columns=wanted).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise RecordsError(f"{path}: cannot be read ({error}). Run the analysis again.") from error
