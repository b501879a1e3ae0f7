"""Manifests and tables read back: one rule for every kind and version of the schema. No torch here.

A record of an older version is read under today's names; only what is complete can be read, and
what a newer lensbench wrote is refused. Writers write today's version and no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lensbench.errors import Problem, RecordsError
from lensbench.files import sha256_of
from lensbench.json_text import read_json
from lensbench.records.schema import KINDS, SCHEMA_VERSION, TABLES
from lensbench.records.schema.every import MANIFEST_ENTRIES

MANIFEST = "manifest.json"
SEAL = "manifest_sha256"
Filters = list[tuple[str, str, Any]] | None  # (column, operator, value), all of which must hold

_MILESTONES_1 = {
    "answer_first": "rank1_first",
    "answer_stays": "rank1_stable",
    "answer_top10": "top10_first",
}
# What version 1 called otherwise -> today's name. A column had one meaning in all its tables.
_COLUMNS_1 = {
    "point": "site",
    "phase": "span",
    "arm": "placement",
    "loss": "loss_nats",
    "eval_loss": "eval_loss_nats",
    **{f"solved{side}": f"top1_correct{side}" for side in ("", "_a", "_b")},
    **{
        f"{old}_{part}{side}": f"{new}_{part}{side}"
        for old, new in _MILESTONES_1.items()
        for part in ("layer", "depth", "reason")
        for side in ("", "_a", "_b")
    },
}
_KEYS_1 = {  # of a manifest and its settings
    "points": "sites",
    "phases": "spans",
    "phase": "span",
    "part_bits": "diverge_bits",
    "learning_rate": "peak_learning_rate",
}


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a record, complete or not, under today's names.

    Raises RecordsError for what is no manifest of a record, of a kind or version not known here,
    and for a run that an older lensbench began and did not finish.
    """
    manifest = stored_manifest(path)
    version = manifest.get("schema_version")
    if not isinstance(version, int):
        what = "no schema_version. This is not a lensbench record"
        raise RecordsError(f"{path}: {what}; give a run another folder with --out.")
    _require_sealed(path, manifest, version)
    if version > SCHEMA_VERSION:
        raise RecordsError(
            f"{path}: schema_version {version} is newer than this lensbench can read "
            f"({SCHEMA_VERSION}). Upgrade lensbench, or give a new run another folder with --out."
        )
    if version < SCHEMA_VERSION and manifest.get("status") != "complete":
        raise RecordsError(
            f"{path}: an older lensbench (schema_version {version}) began this run and did not "
            "finish it, and this one cannot go on with it. Delete its folder, or give the new run "
            "another one with --out."
        )
    kind = manifest.setdefault("kind", "lens")  # manifests older than kinds are of the lens
    if kind not in KINDS:
        what = f"records of kind {kind!r} are not known here"
        raise RecordsError(f"{path}: {what}. Upgrade lensbench.")
    _require(path, manifest, ("status", "model", "settings"))
    return _manifest_of_today(manifest) if version == 1 else manifest


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with a hash of all else that it says, so that an altered byte is noticed."""
    rest = {key: value for key, value in manifest.items() if key != SEAL}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False)
    return rest | {SEAL: hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}


def _require_sealed(path: Path, manifest: Mapping[str, Any], version: int) -> None:
    """Raise RecordsError where the manifest is not as it was written; before 3 none was sealed."""
    if version > 2 and SEAL not in manifest:
        raise RecordsError(
            f"{path}: it has no {SEAL}, so no lensbench wrote it, or it was altered. A record of "
            f"another tool is checked and taken in by: lensbench import {path.parent} --out DIR."
        )
    if SEAL in manifest and sealed(manifest) != manifest:
        raise _altered(path, SEAL)


def require_unaltered(path: Path, manifest: Mapping[str, Any] | None = None) -> None:
    """Raise RecordsError where a file is not the one that the run wrote; see `sealed`.

    `manifest`: of its record, where it was read before.
    """
    beside = path.parent / MANIFEST
    if manifest is None:
        manifest = stored_manifest(beside) if beside.exists() else {}
    said = manifest.get("checksums", {}).get(path.name)
    if said is not None and checksum(path) != said:
        raise _altered(path, "sha256")


def _altered(path: Path, what: str) -> RecordsError:
    return RecordsError(
        f"{path}: it was altered after it was written (its {what} differs), so its numbers "
        "cannot be trusted. Delete its folder and run the same command again."
    )


def checksum(path: Path) -> str:
    """SHA-256 of a file, taken once for as long as it stands: many ask for parts of one table."""
    about = path.stat()
    return _checksum(path, about.st_size, about.st_mtime_ns, about.st_ino)


@lru_cache(maxsize=1024)
def _checksum(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    return sha256_of(path)


def read_complete(path: Path) -> dict[str, Any]:
    """The manifest of a complete record. Raises RecordsError as `read_manifest`, and for others."""
    manifest = read_manifest(path)
    if manifest["status"] != "complete":
        raise RecordsError(
            f"{path}: the run is not complete (status {manifest['status']!r}). "
            "Run the same command again: it goes on where it stopped."
        )
    entries = (*MANIFEST_ENTRIES, *KINDS[manifest["kind"]].entries)
    _require(path, manifest, [entry.name for entry in entries if not entry.absent])
    return manifest


def table_path(folder: Path, name: str) -> Path:
    """Where a table of the record in a folder is."""
    return folder / f"{name}.parquet"


def read_table(
    folder: Path, name: str, columns: Sequence[str] | None = None, filters: Filters = None
) -> pa.Table:
    """One table of a record, with the columns of today's schema; others are skipped.

    Args:
        columns: only these.
        filters: only rows for which all of (column, operator, value) hold.

    Raises RecordsError for a table that is missing, damaged, altered or without one of the columns.
    """
    path = table_path(folder, name)
    wanted = list(TABLES[name].names if columns is None else columns)
    with _readable(path):
        old, absent = _names_there(path, name, wanted)
        chosen = {old.get(column, column): column for column in wanted if column not in absent}
        kept = [(old.get(column, column), *rest) for column, *rest in filters or ()]
        table = pq.read_table(path, columns=list(chosen), filters=kept or None)
        table = table.rename_columns(list(chosen.values()))
        for column in absent:  # the record is older than the column
            field = TABLES[name].schema.field(column)
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        return table.select(wanted)


def require_table(folder: Path, name: str) -> None:
    """Raise RecordsError as `read_table` does for a whole table; no row is read."""
    path = table_path(folder, name)
    with _readable(path):
        _names_there(path, name, TABLES[name].names)


def _names_there(
    path: Path, name: str, wanted: Sequence[str]
) -> tuple[Mapping[str, str], list[str]]:
    """Columns that the file calls otherwise, and those that it is older than.

    Raises RecordsError for a file that was altered or lacks another column.
    """
    require_unaltered(path)
    there = pq.read_schema(path).names
    old = {new: old for old, new in _COLUMNS_1.items() if old in there and new not in there}
    absent = [column for column in wanted if old.get(column, column) not in there]
    newer = {column.name for column in TABLES[name].columns if column.since > 1}
    if missing := [column for column in absent if column not in newer]:
        raise RecordsError(
            f"{path}: no column {', '.join(missing)}. "
            "The record is older than this lensbench or damaged: run the same command again."
        )
    return old, absent


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise RecordsError for a table that is missing or damaged."""
    if not path.exists():
        raise RecordsError(f"{path}: this table is missing. Run the same command again.")
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise RecordsError(
            f"{path}: cannot be read ({error}). Delete its folder and run the same command again."
        ) from error


def read_problems(folder: Path) -> list[Problem]:
    """What a record says could not be measured."""
    rows = read_table(folder, "problems").drop_columns("model").to_pylist()
    return [Problem(**row) for row in rows]


def _require(path: Path, manifest: Mapping[str, Any], entries: Sequence[str]) -> None:
    missing = [entry for entry in entries if entry not in manifest]
    if missing:
        raise RecordsError(
            f"{path}: it is damaged (no {', '.join(missing)}). Delete its folder and run the same "
            "command again."
        )


def stored_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        raise RecordsError(
            f"{path}: it is damaged ({error}). Delete its folder and run the same command again."
        ) from error
    if not isinstance(manifest, dict):
        raise RecordsError(f"{path}: this is no manifest of a lensbench record.")
    return manifest


def _manifest_of_today(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of version 1 under today's names; what it says is unchanged."""
    settings = _renamed(manifest["settings"])
    if "inputs" in settings:  # of a correlation: facts of each run that is compared
        settings["inputs"] = {name: _renamed(facts) for name, facts in settings["inputs"].items()}
    return {**_renamed(manifest), "settings": settings}


def _renamed(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {_KEYS_1.get(key, key): value for key, value in entries.items()}
