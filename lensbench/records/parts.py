"""What jobs leave behind while a record is in the making: numbered parts, whole or absent.

Beside each stands a file with the SHA-256 of its tables: what was altered is named, never used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lensbench.errors import Problem, RecordsError
from lensbench.files import write_bytes
from lensbench.json_text import parse_json, read_json
from lensbench.records.read import checksum, require_unaltered
from lensbench.records.schema import TABLES
from lensbench.records.store import parquet_bytes

_EARLIER = "earlier"  # instead of a number: the tables of the narrower record that came before


@dataclass(frozen=True)
class Part:
    """What one job yields: rows of some tables, what it skipped, notes (JSON), further files.

    `files`: bytes by path from the record's folder. Problems and notes travel with the first table.
    """

    tables: Mapping[str, pa.Table]
    problems: Sequence[Problem] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class Parts:
    """The parts of one record, in job order, after the tables that a narrower record left."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self.folder = record / "parts"

    @property
    def numbers(self) -> list[int]:
        """The jobs whose parts are there."""
        found = self.folder.glob("[0-9]*.parquet")
        return sorted(int(path.stem) for path in found if path.name.count(".") == 1)

    def has(self, number: int) -> bool:
        """Whether this job's part was written before."""
        return self._path(number).exists() and self._digests(number).exists()

    def write(self, number: int, part: Part) -> None:
        """Write one part, all or nothing: it is there when its first table is, the last written."""
        self.put(self.files(number, part))

    def files(self, number: int, part: Part) -> dict[str, bytes]:
        """What a part is on disk, in the order to write it: bytes by path from the record's folder.

        The same part gives the same bytes, whoever makes them.
        """
        first, *others = part.tables
        problems = [vars(problem) for problem in part.problems]
        about = {"table": first, "problems": problems, "notes": dict(part.notes)}
        metadata = {b"lensbench": json.dumps(about).encode()}
        whole = {self._path(number, name): part.tables[name] for name in others}
        whole[self._path(number)] = part.tables[first].replace_schema_metadata(metadata)
        tables = {path: parquet_bytes(table) for path, table in whole.items()}
        return {**part.files, **self._sealed(number, tables)}

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write what `files` gives, in its order."""
        for path, data in files.items():
            write_bytes(self._record / path, data)

    def _sealed(self, number: int | str, tables: Mapping[Path, bytes]) -> dict[str, bytes]:
        """Tables of one part in their order, and before the last one what all of them are."""
        digests = {path.name: hashlib.sha256(data).hexdigest() for path, data in tables.items()}
        *others, last = tables
        told = json.dumps(digests, sort_keys=True).encode()
        whole = {path: tables[path] for path in others}
        whole |= {self._digests(number): told, last: tables[last]}
        return {path.relative_to(self._record).as_posix(): whole[path] for path in whole}

    def part(self, number: int) -> Part:
        """One part as it was written, but for its further files."""
        about = self._about(number)
        stem = f"{number:06d}"
        paths = sorted(self.folder.glob(f"{stem}.*.parquet"))
        others = [path.name.removeprefix(f"{stem}.").removesuffix(".parquet") for path in paths]
        tables = {about["table"]: self._read(number, "")}
        tables |= {name: self._read(number, name) for name in others}
        problems = [Problem(**problem) for problem in about["problems"]]
        return Part(tables, problems, about["notes"])

    def tables(self, name: str) -> Iterator[pa.Table]:
        """One table piece by piece."""
        earlier = self._path(_EARLIER, name)
        if earlier.exists():
            yield self._read(_EARLIER, name)
        for number in self.numbers:
            first = self._about(number)["table"] == name
            own = "" if first else name
            if self._path(number, own).exists():
                yield self._read(number, own)

    def table(self, name: str) -> pa.Table:
        """One table whole."""
        return pa.concat_tables([TABLES[name].schema.empty_table(), *self.tables(name)])

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What each job noted."""
        return [self._about(number)["notes"] for number in self.numbers]

    @property
    def problems(self) -> list[Problem]:
        """What was skipped, earlier and by each job."""
        earlier = self._path(_EARLIER, "problems")
        rows = []
        if earlier.exists():
            rows = self._read(_EARLIER, "problems").drop_columns("model").to_pylist()
        noted = chain.from_iterable(self._about(number)["problems"] for number in self.numbers)
        return [Problem(**problem) for problem in [*rows, *noted]]

    def keep_earlier(self, names: Sequence[str]) -> None:
        """Keep a finished record's tables: what its jobs would leave needs no job any more."""
        shutil.rmtree(self.folder, ignore_errors=True)
        paths = [self._record / f"{name}.parquet" for name in names]
        for path in paths:
            require_unaltered(path)
        kept = zip(names, paths, strict=True)
        tables = {self._path(_EARLIER, name): path.read_bytes() for name, path in kept}
        self.put(self._sealed(_EARLIER, tables))

    def require_earlier(self, names: Sequence[str]) -> None:
        """Raise RecordsError unless the kept tables are all there."""
        missing = [path for name in names if not (path := self._path(_EARLIER, name)).exists()]
        if missing:
            raise RecordsError(
                f"{missing[0]} is missing: what was measured before this record was widened. "
                f"Delete {self._record} and run the same command again."
            )

    def drop(self) -> None:
        """Remove them all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _about(self, number: int) -> dict[str, Any]:
        """What travels with a part's first table."""
        self._require_whole(number, "")
        schema = pq.read_schema(self._path(number))
        return dict(parse_json((schema.metadata or {})[b"lensbench"]))

    def _read(self, number: int | str, name: str) -> pa.Table:
        self._require_whole(number, name)
        return pq.read_table(self._path(number, name)).replace_schema_metadata(None)

    def _require_whole(self, number: int | str, name: str) -> None:
        """Raise RecordsError unless a table is as it was written."""
        path = self._path(number, name)
        try:
            said = read_json(self._digests(number)).get(path.name)
        except (OSError, ValueError, AttributeError):
            said = None
        if said != checksum(path):
            raise RecordsError(
                f"{path}: it was altered after it was written (its sha256 differs). Delete "
                f"{self.folder} and run the same command again: what was in it is measured anew."
            )

    def _digests(self, number: int | str) -> Path:
        return self._path(number).with_suffix(".sha256")

    def _path(self, number: int | str, name: str = "") -> Path:
        stem = number if isinstance(number, str) else f"{number:06d}"
        return self.folder / (f"{stem}.{name}.parquet" if name else f"{stem}.parquet")
