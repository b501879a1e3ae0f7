"""JSON that somebody else wrote: bounded, unambiguous, and a ValueError where it is not."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

# Bytes of a file: lists of nothing take twenty times as much memory. The index of a checkpoint of
# 100,000 tensors has 10 MB.
MOST_BYTES = 32 << 20


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """What a JSON file holds.

    Raises FileNotFoundError, and ValueError in words where `parse_json` does, for what is not UTF-8
    and for what is no regular file or larger than `most_bytes`: a pipe or a device has no end.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no regular file")
    if about.st_size > most_bytes:
        raise ValueError(f"it has {about.st_size:,} bytes, more than {most_bytes:,}")
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str | bytes, **how: Any) -> Any:
    """What a JSON text says; `how` is passed on to `json.loads`.

    Raises ValueError for what is no JSON, nests too deeply, holds a number of more than 4,300
    digits, or names a key twice with different values: which one counts depends on the reader.
    """
    try:
        return json.loads(text, object_pairs_hook=_one_of_each, **how)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def _one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = sorted({key for key, value in pairs if found[key] != value})
        if twice:
            raise ValueError(f"the key {', '.join(map(repr, twice))} stands twice")
    return found
