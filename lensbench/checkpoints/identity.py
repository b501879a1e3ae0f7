"""Which file it is: a hash of gigabytes is made once, and known again by the state of the file."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lensbench.checkpoints.source import cache_dir
from lensbench.files import sha256_of, write_text
from lensbench.json_text import read_json

_LARGE = 64 << 20  # bytes; what is smaller is read again sooner than looked up
_SETTLED_S = 2.0  # the coarsest clock of a file system in use (FAT)
_SHA256 = re.compile("[0-9a-f]{64}")

State = tuple[tuple[str, str | int], ...]
_known: dict[State, str] = {}


def sha256_once(path: Path) -> str:
    """SHA-256 of a file, hexadecimal: read where nobody has, or where it may be another by now.

    It is the same file, as it was, while machine, path, device, inode, size and the times of the
    last change of its content and of its entry are the same. A program can set the first of these
    times back, as copying does, but not the second. A hash is remembered within the process, and of
    large files in the cache folder (`hashes`), only where the file did not change while it was read
    and had been left alone for two seconds before: a clock may not tell two writes apart.

    What that cannot see, and a second reading could: numbers that change on the disk with no write
    to the file (a failing disk, a device or image written to beneath its file system); a write
    through a mapping of the file that was open before and stays open; a network file system that
    answers with what it knew up to a minute ago; a clock that is set back between two writes.
    Whoever fears any of it deletes that folder.
    """
    path = path.resolve()
    state = _state(path)
    found = _known.get(state) or _kept(state)
    if found is None:
        started = time.time()
        found = sha256_of(path)
        if _state(path) != state or started - _changed_s(state) < _SETTLED_S:
            return found
        _keep(state, found)
    _known[state] = found
    return found


def _state(path: Path) -> State:
    status = path.stat()
    return (
        ("machine", platform.node()),
        ("path", str(path)),
        ("device", status.st_dev),
        ("inode", status.st_ino),
        ("size", status.st_size),
        ("mtime_ns", status.st_mtime_ns),
        ("ctime_ns", status.st_ctime_ns),
    )


def _changed_s(state: State) -> float:
    """When it last changed, in seconds since 1970."""
    times = dict(state)
    return max(int(times["mtime_ns"]), int(times["ctime_ns"])) / 1e9


def _place(state: State) -> Path:
    name = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    return cache_dir() / "hashes" / f"{name}.json"


def _outlives_the_process(state: State) -> bool:
    """Large, and where the second time is that of a change; on Windows it is that of the making."""
    return os.name == "posix" and int(dict(state)["size"]) >= _LARGE


def _kept(state: State) -> str | None:
    """What was remembered of this state; None where nothing was, or something else stands there."""
    if not _outlives_the_process(state):
        return None
    try:
        found = read_json(_place(state))
    except (OSError, ValueError):  # never written, or damaged
        return None
    if not isinstance(found, Mapping) or found.get("file") != dict(state):
        return None
    told = str(found.get("sha256"))
    return told if _SHA256.fullmatch(told) else None


def _keep(state: State, sha256: str) -> None:
    if _outlives_the_process(state):
        text = json.dumps({"file": dict(state), "sha256": sha256}, indent=2) + "\n"
        with suppress(OSError):  # no room, or a folder that is only read: it is hashed again then
            write_text(_place(state), text)
