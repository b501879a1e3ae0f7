"""Where the driver keeps a record, as workers are told of it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lensbench.records.read import MANIFEST


@dataclass(frozen=True)
class Home:
    """Where the driver keeps the record: the folder, a file that shows that it is the same one."""

    folder: str
    proof: str
    shared: str | None  # the URL of a folder for parts, where the record's is not seen
    place: str  # in it


@contextmanager
def shown(record: Path, shared: str | None) -> Iterator[Home]:
    """The record's folder with a file in it by which a worker knows that it sees the same one."""
    proof = record / f".{uuid.uuid4().hex}.part"  # swept away with what killed writers leave
    proof.touch()
    place = hashlib.sha256((record / MANIFEST).read_bytes()).hexdigest()[:32]
    try:
        yield Home(str(record.resolve()), proof.name, shared, place)
    finally:
        proof.unlink(missing_ok=True)
