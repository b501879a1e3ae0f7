"""Where the driver keeps a record, or several, as workers are told of it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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


def shown(record: Path, shared: str | None) -> AbstractContextManager[Home]:
    """The folder of a record that is begun."""
    place = hashlib.sha256((record / MANIFEST).read_bytes()).hexdigest()[:32]
    return proven(record, str(record.resolve()), shared, place)


@contextmanager
def proven(folder: Path, name: str, shared: str | None = None, place: str = "") -> Iterator[Home]:
    """A folder with a file in it by which a worker knows that it sees the same one by its name."""
    proof = folder / f".{uuid.uuid4().hex}.part"  # swept away with what killed writers leave
    proof.touch()
    try:
        yield Home(name, proof.name, shared, place)
    finally:
        proof.unlink(missing_ok=True)
