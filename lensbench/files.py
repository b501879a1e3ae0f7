"""Files that are either whole or absent: temporary name, fsync, rename; and those of a package."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lensbench.errors import MissingExtraError

_BLOCK = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary sibling of `path` for writing; it takes the name only when it is whole.

    A reader sees the old file or the new one, never a part of it, whatever interrupts the writer.
    Raises OSError (disk full, no permission); the temporary file is removed then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
        sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all or nothing."""
    with replacing(path) as handle:
        handle.write(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8 with Unix line ends, all or nothing."""
    write_bytes(path, text.encode("utf-8"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def package_folder(module: str, extra: str, package: str | None = None) -> Path:
    """Where an installed package lies, for a file in it; nothing of it is imported.

    Raises MissingExtraError, naming the package (by default as its module) and its extra.
    """
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise MissingExtraError(package or module, extra)
    return Path(found.origin).parent
