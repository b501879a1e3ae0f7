"""A record on disk: its manifest and tables, locked while somebody writes it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from lensbench.errors import Problem, RecordsError
from lensbench.files import replacing, write_text
from lensbench.records.read import MANIFEST, read_manifest, read_problems
from lensbench.records.schema import KINDS, TABLES
from lensbench.records.schema.every import MANIFEST_ENTRIES, PROBLEMS

_PARTS = "parts"
_GROUP_BYTES = 64 << 20  # of rows that are written, and read again, together


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
                "Wait for it, or give this run another folder with --out."
            ) from error
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def manifest(self) -> dict[str, Any] | None:
        """The manifest as it stands, or None before the first start."""
        path = self.folder / MANIFEST
        return read_manifest(path) if path.exists() else None

    def is_complete(
        self,
        settings: Mapping[str, Any],
        model: Mapping[str, Any],
        apart: Collection[str] = (),
    ) -> bool:
        """Whether this very run was finished before: nothing to do, not even to load the model.

        `model`: facts of the manifest's model that must be the same; `apart`: names of its settings
        that may differ, left out of `settings`.
        """
        earlier = self.manifest()
        if (
            earlier is None
            or earlier["status"] != "complete"
            or not self.has_tables(KINDS[self.kind].names)
        ):
            return False
        kept = {key: value for key, value in earlier["settings"].items() if key not in apart}
        return kept == settings and all(earlier["model"].get(k) == v for k, v in model.items())

    def start(self, manifest: dict[str, Any]) -> None:
        """Begin, or go on with, a run of exactly these settings.

        Raises RecordsError naming every difference when the folder holds a run of other settings.
        """
        earlier = self.manifest()
        if earlier is None:
            self.write_manifest(manifest)
            return
        differences = [
            f"{part}.{key}: {earlier[part].get(key)!r} there, {manifest[part].get(key)!r} now"
            for part in ("settings", "model")
            for key in sorted({*earlier[part], *manifest[part]})
            if earlier[part].get(key) != manifest[part].get(key)
        ]
        if differences:
            lines = "\n".join(f"  - {difference}" for difference in differences)
            raise RecordsError(
                f"{self.folder} holds a run made with other settings:\n{lines}\n"
                "Give this run another folder with --out, or delete that one."
            )
        if earlier["status"] == "complete":  # but a table was lost
            self.tidy()
            self.write_manifest(manifest)

    def has_part(self, number: int) -> bool:
        """Whether batch `number` was written before."""
        return self._part(number).exists()

    def write_part(
        self,
        number: int,
        tables: Mapping[str, pa.Table],
        problems: Sequence[Problem] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one batch of some tables, all or nothing.

        What is not a table travels in the metadata of the first one, which is written last: the
        batch is there when that file is.
        """
        all_notes = {**(notes or {}), "problems": [vars(problem) for problem in problems]}
        metadata = {b"lensbench": json.dumps(all_notes).encode()}
        main, *others = tables
        for name in others:
            write_parquet(self._part(number, name), [tables[name]], tables[name].schema)
        table = tables[main].replace_schema_metadata(metadata)
        write_parquet(self._part(number), [table], table.schema)

    def part(self, number: int) -> tuple[pa.Table, list[Problem], dict[str, Any]]:
        """The first table of one batch, its problems and its notes."""
        table = pq.read_table(self._part(number))
        notes = json.loads((table.schema.metadata or {})[b"lensbench"])
        problems = [Problem(**problem) for problem in notes.pop("problems")]
        return table.replace_schema_metadata(None), problems, notes

    def parts(self, count: int, name: str) -> tuple[pa.Table, list[Problem], list[dict[str, Any]]]:
        """The first table of every batch as one table called `name`; all problems; all notes."""
        read = [self.part(number) for number in range(count)]
        tables = [table for table, _, _ in read]
        whole = pa.concat_tables(tables) if tables else TABLES[name].schema.empty_table()
        problems = [problem for _, found, _ in read for problem in found]
        return whole, problems, [notes for _, _, notes in read]

    def other_parts(self, count: int, name: str) -> pa.Table:
        """A further table of every batch, as one."""
        tables = [pq.read_table(self._part(number, name)) for number in range(count)]
        return pa.concat_tables(tables) if tables else TABLES[name].schema.empty_table()

    def join_parts(self, count: int, name: str) -> None:
        """Make one table of a further table of every batch, without holding them all in memory."""
        schema, how = TABLES[name].schema, {"compression": "zstd", "compression_level": 9}
        with (
            replacing(self.folder / f"{name}.parquet") as handle,
            pq.ParquetWriter(handle, schema, **how) as writer,
        ):
            for number in range(count):
                writer.write_table(pq.read_table(self._part(number, name)).cast(schema))

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest as a whole. Raises ValueError for what its kind does not declare."""
        declared = (*MANIFEST_ENTRIES, *KINDS[self.kind].entries)
        if unknown := sorted(manifest.keys() - {entry.name for entry in declared}):
            raise ValueError(f"records/schema declares no {', '.join(unknown)} for {self.kind}")
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
        write_text(self.folder / MANIFEST, text + "\n")

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one table of the contract."""
        self.write_pieces(name, [table])

    def write_pieces(self, name: str, pieces: Iterable[pa.Table]) -> None:
        """Write one table of the contract from its pieces, not all of them in memory at once."""
        whole = (piece.cast(TABLES[name].schema) for piece in pieces)
        write_parquet(self.folder / f"{name}.parquet", whole, TABLES[name].schema)

    def sweep(self) -> None:
        """Remove what killed writers left behind."""
        for torn in self.folder.rglob(".*.part"):
            torn.unlink(missing_ok=True)

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """The tables are whole: say so, then tidy up."""
        self.write_manifest({**manifest, "status": "complete"})
        self.tidy()

    def tidy(self) -> None:
        """Drop the parts of a complete record, and what killed writers left behind."""
        shutil.rmtree(self.folder / _PARTS, ignore_errors=True)
        for torn in self.folder.rglob(".*.part"):
            torn.unlink(missing_ok=True)

    def _part(self, number: int, name: str = "") -> Path:
        suffix = f".{name}.parquet" if name else ".parquet"
        return self.folder / _PARTS / f"{number:06d}{suffix}"

    def has_tables(self, names: Iterable[str]) -> bool:
        """Whether all of these tables are there."""
        return all((self.folder / f"{name}.parquet").exists() for name in names)

    def problems(self) -> list[Problem]:
        """The problems of a complete record."""
        return read_problems(self.folder)

    def problems_table(self, problems: list[Problem]) -> pa.Table:
        """Problems as their table."""
        rows = [
            {
                "model": self.model,
                "prompt_id": problem.prompt_id,
                "where": problem.where,
                "what": problem.what,
                "remedy": problem.remedy,
            }
            for problem in problems
        ]
        return pa.Table.from_pylist(rows, schema=PROBLEMS.schema)


def write_parquet(path: Path, pieces: Iterable[pa.Table], schema: pa.Schema) -> None:
    """The same rows give the same bytes (same pyarrow), however they are cut; zstd keeps it small.

    The rows are written in groups of about `_GROUP_BYTES`.
    """
    how = {"compression": "zstd", "compression_level": 9}
    with replacing(path) as handle, pq.ParquetWriter(handle, schema, **how) as writer:
        gathered, size = [schema.empty_table()], 0
        for piece in pieces:
            gathered.append(piece)
            size += piece.nbytes
            if size >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(gathered))
                gathered, size = [schema.empty_table()], 0
        writer.write_table(pa.concat_tables(gathered))
