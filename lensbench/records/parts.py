"""What jobs leave behind while a record is in the making: numbered parts, whole or absent.

Beside each stands a file with the SHA-256 of its tables and further files: what was altered is
named, never used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lensbench.errors import Problem, RecordsError
from lensbench.files import write_bytes
from lensbench.json_text import parse_json, read_json
from lensbench.records.read import checksum, require_unaltered
from lensbench.records.schema import TABLES
from lensbench.records.store import grouped, parquet_bytes

_TIME = "wall_s"  # beside the parts: seconds of all sessions so far
_EARLIER = "earlier"  # instead of a number: the tables of the narrower record that came before
_ITEMS = 256  # whose rows are in memory together, unless there are more than `_FILES` times as many
_FILES = 64  # open at once
_NONE: Mapping[str, bytes] = {}
_PACKED = pa.ipc.IpcWriteOptions(compression="zstd")


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
        self.n_workers = 0  # who were given jobs of this session, besides this process

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
        return {**part.files, **self._sealed(number, tables, part.files)}

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write what `files` gives, in its order."""
        for path, data in files.items():
            write_bytes(self._record / path, data)

    def _sealed(
        self, number: int | str, tables: Mapping[Path, bytes], files: Mapping[str, bytes] = _NONE
    ) -> dict[str, bytes]:
        """Tables of one part in their order, and before the last one what it and `files` are."""
        sealed = {**files, **{path.name: data for path, data in tables.items()}}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in sealed.items()}
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

    def file(self, number: int, path: str) -> bytes:
        """One of a part's further files as it was written, by its path from the record's folder.

        Raises RecordsError for one that is missing, or was altered.
        """
        place = self._record / path
        data = place.read_bytes() if place.is_file() else b""
        self._require_told(number, path, place, hashlib.sha256(data).hexdigest())
        return data

    def tables(self, name: str) -> Iterator[pa.Table]:
        """One table piece by piece."""
        earlier = self._path(_EARLIER, name)
        if earlier.exists():
            yield from self._pieces(_EARLIER, name)
        for number in self.numbers:
            first = self._about(number)["table"] == name
            own = "" if first else name
            if self._path(number, own).exists():
                yield from self._pieces(number, own)

    def table(self, name: str) -> pa.Table:
        """One table whole."""
        return pa.concat_tables([TABLES[name].schema.empty_table(), *self.tables(name)])

    def ordered(self, name: str, column: str, ids: Sequence[str]) -> Ordered:
        """One table in the order in which `ids` names what stands in a column; others left out."""
        folder = self.folder / f"ordered-{name}"
        return Ordered(folder, self.tables(name), TABLES[name].schema, column, ids)

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What each job noted."""
        return [self._about(number)["notes"] for number in self.numbers]

    @property
    def earlier_s(self) -> float:
        """How long the sessions before worked on these parts, as far as they noted it."""
        path = self.folder / _TIME
        return float(path.read_text(encoding="utf-8")) if path.exists() else 0.0

    def note_time(self, wall_s: float) -> None:
        """Note how long all sessions took so far."""
        write_bytes(self.folder / _TIME, f"{wall_s:.3f}".encode())

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

    def forget_jobs(self) -> None:
        """Remove what jobs left; what was measured before the record was widened stays."""
        for path in self.folder.glob("[0-9]*"):
            path.unlink()

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

    def _pieces(self, number: int | str, name: str) -> Iterator[pa.Table]:
        """A part's table as it was written, group by group: the tables of a record are large."""
        self._require_whole(number, name)
        with pq.ParquetFile(self._path(number, name)) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group).replace_schema_metadata(None)

    def _require_whole(self, number: int | str, name: str) -> None:
        """Raise RecordsError unless a table is as it was written."""
        path = self._path(number, name)
        self._require_told(number, path.name, path, checksum(path))

    def _require_told(self, number: int | str, name: str, path: Path, sha256: str) -> None:
        """Raise RecordsError unless this is the hash of what was written under a name."""
        try:
            said = read_json(self._digests(number)).get(name)
        except (OSError, ValueError, AttributeError):
            said = None
        if said != sha256:
            raise RecordsError(
                f"{path}: it was altered after it was written (its sha256 differs). Delete "
                f"{self.folder} and run the same command again: what was in it is measured anew."
            )

    def _digests(self, number: int | str) -> Path:
        return self._path(number).with_suffix(".sha256")

    def _path(self, number: int | str, name: str = "") -> Path:
        stem = number if isinstance(number, str) else f"{number:06d}"
        return self.folder / (f"{stem}.{name}.parquet" if name else f"{stem}.parquet")


class Ordered:
    """Rows in the order of what they are of (prompts), some items at a time and never all at once.

    They come in the order of the jobs, which take prompts of one length together. They are dealt
    out to files first, each for a stretch of the items, so that every part is read once; whoever
    goes through them has one stretch in memory, and can do so again.
    """

    def __init__(
        self,
        folder: Path,
        pieces: Iterable[pa.Table],
        schema: pa.Schema,
        column: str,
        ids: Sequence[str],
    ) -> None:
        self._folder, self._schema, self._column = folder, schema, column
        self._ids = pa.array(ids, pa.string())
        self._items = max(_ITEMS, -(-len(ids) // _FILES))
        shutil.rmtree(folder, ignore_errors=True)  # of a killed run
        folder.mkdir(parents=True)
        self._deal(pieces)

    def __iter__(self) -> Iterator[pa.Table]:
        for path in sorted(self._folder.iterdir()):
            with pa.memory_map(str(path)) as file:
                yield in_order(pa.ipc.open_stream(file).read_all(), self._column, self._ids)

    def _deal(self, pieces: Iterable[pa.Table]) -> None:
        with ExitStack() as stack:
            files: dict[int, pa.RecordBatchWriter] = {}
            for group in grouped(pieces, self._schema):
                stretch = pc.divide(pc.index_in(group[self._column], self._ids), self._items)
                for number in stretch.unique().drop_null().to_pylist():
                    if number not in files:
                        path = str(self._folder / f"{number:06d}")
                        stream = pa.ipc.new_stream(path, self._schema, options=_PACKED)
                        files[number] = stack.enter_context(stream)
                    files[number].write_table(group.filter(pc.equal(stretch, number)))


def in_order(table: pa.Table, column: str, ids: Sequence[str] | pa.Array) -> pa.Table:
    """The rows in the order in which `ids` names what stands in a column, as they come otherwise.

    What it does not name is left out.
    """
    place = pc.index_in(table[column], pa.array(ids, pa.string()))
    table, place = table.filter(place.is_valid()), place.drop_null()
    return table.take(np.argsort(place.to_numpy(), kind="stable"))
