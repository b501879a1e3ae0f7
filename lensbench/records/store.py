"""A record on disk: its manifest and tables, locked while somebody writes it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from lensbench.errors import Problem, RecordsError
from lensbench.files import replacing, sha256_of, write_text
from lensbench.records.read import MANIFEST, read_manifest, sealed, table_path
from lensbench.records.schema import KINDS, TABLES
from lensbench.records.schema.every import MANIFEST_ENTRIES, PROBLEMS

_GROUP_BYTES = 64 << 20  # of rows that are written, and read again, together
_SHOWN = 4  # of a foreign folder's files


def folder_name(model: str) -> str:
    """A model's name as a folder: hub names and paths lose their slashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.") or "model"


def disk_error(folder: Path, error: OSError) -> RecordsError:
    """A disk that is full, or another trouble with a file, in words."""
    what = f"{error.filename or folder}: {error.strerror or error}"
    return RecordsError(
        f"{what}. What was written before is kept: mend this (free some space?) and run the same "
        "command again to go on."
    )


class RecordStore:
    """One record folder (one model in one run); its kind says which tables it holds."""

    def __init__(self, folder: Path, model: str, kind: str = "lens") -> None:
        self.folder = folder
        self.model = model
        self.kind = kind

    @property
    def option(self) -> str:
        """What gives a record another folder, on the command line."""
        return "--trace (of an analysis: --out)" if self.kind == "trace" else "--out"

    def require_free(self) -> None:
        """Raise RecordsError for a folder in use that no record of this kind was begun in.

        A record's manifest is its first file, so an interrupted run is never refused; hidden files
        are passed over.
        """
        there = self.manifest()
        if there is not None and there["kind"] != self.kind:
            raise RecordsError(
                f"{self.folder} holds a {there['kind']} record, not a {self.kind} one; "
                f"give another folder with {self.option}."
            )
        if there is None and self.folder.is_dir():
            found = sorted(path.name for path in self.folder.iterdir() if path.name[0] != ".")
            if found:
                shown = ", ".join(found[:_SHOWN]) + ", ..." * (len(found) > _SHOWN)
                raise RecordsError(
                    f"{self.folder} holds {shown} and no {self.kind} record; "
                    f"give another folder with {self.option}."
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out while this one writes.

        Raises RecordsError for a lock that is taken, and for a full disk or other file trouble.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise RecordsError(
                f"{self.folder}: another process is writing this record. "
                f"Wait for it, or give this run another folder with {self.option}."
            ) from error
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def manifest(self) -> dict[str, Any] | None:
        """The manifest as it stands, or None before the first start."""
        path = self.folder / MANIFEST
        return read_manifest(path) if path.exists() else None

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest as a whole. Raises ValueError for what its kind does not declare."""
        declared = (*MANIFEST_ENTRIES, *KINDS[self.kind].entries)
        if unknown := sorted(manifest.keys() - {entry.name for entry in declared}):
            raise ValueError(f"records/schema declares no {', '.join(unknown)} for {self.kind}")
        text = json.dumps(sealed(manifest), indent=2, sort_keys=True, ensure_ascii=False)
        write_text(self.folder / MANIFEST, text + "\n")

    def write_table(self, name: str, pieces: Iterable[pa.Table]) -> None:
        """Write one table of the contract from its pieces, not all of them in memory at once."""
        schema = TABLES[name].schema
        write_parquet(
            table_path(self.folder, name), (piece.cast(schema) for piece in pieces), schema
        )

    def checksums(self, tables: Iterable[str], files: Iterable[str] = ()) -> dict[str, str]:
        """SHA-256 of tables and further files as they are on disk, by their path in the record."""
        paths = [table_path(self.folder, name).name for name in tables]
        return {path: sha256_of(self.folder / path) for path in sorted([*paths, *files])}

    def sweep(self) -> None:
        """Remove what killed writers left behind."""
        for torn in self.folder.rglob(".*.part"):
            torn.unlink(missing_ok=True)

    def problems_table(self, problems: list[Problem]) -> pa.Table:
        """Problems as their table."""
        rows = [{"model": self.model} | vars(problem) for problem in problems]
        return PROBLEMS.of_rows(rows)


def write_parquet(path: Path, pieces: Iterable[pa.Table], schema: pa.Schema) -> None:
    """The same rows give the same bytes (same pyarrow), however they are cut; zstd keeps it small.

    The rows are written in groups of about `_GROUP_BYTES`.
    """
    with replacing(path) as handle:
        _write_parquet(handle, pieces, schema)


def parquet_bytes(table: pa.Table) -> bytes:
    """One table as `write_parquet` writes it."""
    data = io.BytesIO()
    _write_parquet(data, [table], table.schema)
    return data.getvalue()


def _write_parquet(handle: IO[bytes], pieces: Iterable[pa.Table], schema: pa.Schema) -> None:
    how = {"compression": "zstd", "compression_level": 9}
    with pq.ParquetWriter(handle, schema, **how) as writer:
        for group in grouped(pieces, schema):
            writer.write_table(group)


def grouped(pieces: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Pieces of a table put together to groups of about `_GROUP_BYTES`; the last may be empty."""
    gathered, size = [schema.empty_table()], 0
    for piece in pieces:
        gathered.append(piece)
        size += piece.nbytes
        if size >= _GROUP_BYTES:
            yield pa.concat_tables(gathered)
            gathered, size = [schema.empty_table()], 0
    yield pa.concat_tables(gathered)
