"""Records found and read: complete and of a known schema, or an error with a remedy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lensbench.errors import RecordsError
from lensbench.records.read import MANIFEST, read_complete, read_table
from lensbench.records.schema import KINDS
from lensbench.records.schema.lens import MILESTONES


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


@dataclass(frozen=True, eq=False)
class SecondRecord:
    """What one run of the second path left behind: its kind, manifest and that kind's tables."""

    name: str  # its folder as seen from the run folder; "" is the run folder itself
    folder: Path
    kind: str
    manifest: dict[str, Any]
    tables: dict[str, pd.DataFrame]

    @property
    def model(self) -> str:
        """The name of the model that was run."""
        return str(self.manifest["model"]["name"])

    @property
    def problems(self) -> pd.DataFrame:
        """Items that could not be measured."""
        return self.tables["problems"]


def find_records(paths: Sequence[Path]) -> list[Path]:
    """All record folders at or beneath `paths`, each once, sorted within a path.

    Hidden folders are passed over.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise RecordsError(
                f"{path}: no such folder. Name a run folder made by `lensbench run`."
            )
        for manifest in sorted(path.rglob(MANIFEST)):
            if not _is_hidden(manifest.relative_to(path)) and not _is_foreign(manifest):
                found.setdefault(manifest.parent.resolve(), manifest.parent)
    if not found:
        names = ", ".join(str(path) for path in paths)
        raise RecordsError(
            f"{names}: no records here (no {MANIFEST} in it or beneath it). "
            "Name a run folder made by `lensbench run` or `lensbench lens --prompts`."
        )
    return list(found.values())


def _is_hidden(path: Path) -> bool:
    """Whether it lies in a folder such as `.runs`: records that others were made of."""
    return any(part.startswith(".") for part in path.parts)


def _is_foreign(path: Path) -> bool:
    """Whether a manifest says that it is of something else, such as an index for retrieval."""
    try:
        return "format" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError):  # damaged: `read_manifest` says so
        return False


def load_records(paths: Sequence[Path]) -> list[Record]:
    """Read every lens record beneath `paths`; equal names get their run folder's name added."""
    folders = [folder for folder in find_records(paths) if _kind_of(folder) == "lens"]
    records = [load_record(folder) for folder in folders]
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
    manifest = read_complete(folder / MANIFEST)
    tables = {name: read_table(folder, name).to_pandas() for name in KINDS["lens"].names}
    for name in MILESTONES:  # from the layers: what a verdict rests on is derived, not trusted
        layer = tables["milestones"][f"{name}_layer"].astype(float)
        tables["milestones"][f"{name}_depth"] = layer / manifest["model"]["n_layers"]
    return Record(model=manifest["model"]["name"], folder=folder, manifest=manifest, **tables)


def load_second(paths: Sequence[Path]) -> list[SecondRecord]:
    """Read every record beneath `paths` that is not a lens record, named by its place there.

    Residual caches are passed over: what they hold is for `lens --cache` and `correlate` to read.
    """
    folders = find_records(paths)
    return [
        _second_record(folder, _place(folder, paths, alone=len(folders) == 1))
        for folder in folders
        if _kind_of(folder) not in ("lens", "cache")
    ]


def _second_record(folder: Path, name: str) -> SecondRecord:
    manifest, kind = read_complete(folder / MANIFEST), _kind_of(folder)
    missing = [key for key in _NEEDS.get(kind, ()) if key not in manifest]
    if missing:
        raise RecordsError(
            f"{folder / MANIFEST}: no {', '.join(missing)} in it. Make the record again."
        )
    tables = {table: read_table(folder, table).to_pandas() for table in KINDS[kind].names}
    return SecondRecord(name, folder, kind, manifest, tables)


_NEEDS: dict[str, tuple[str, ...]] = {
    "training": ("adapter",),
    "evaluation": ("context_cut",),
}  # entries of a manifest of that kind


def _kind_of(folder: Path) -> str:
    """The kind that a record's manifest names; manifests older than kinds are of the lens."""
    kind: str = read_complete(folder / MANIFEST)["kind"]
    return kind


def _place(folder: Path, paths: Sequence[Path], alone: bool) -> str:
    """Where a record's report goes beneath the report folder."""
    path = next(path for path in paths if folder.is_relative_to(path))
    inside = folder.relative_to(path).as_posix()
    if inside == ".":
        return "" if alone else folder.resolve().name
    return inside if len(paths) == 1 else f"{path.resolve().name}/{inside}"
