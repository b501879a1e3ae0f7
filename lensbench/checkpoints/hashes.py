"""What a checkpoint is, in two hashes: the weights and the tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from lensbench.files import sha256_of

_FILES = {
    "weights_sha256": ("*.safetensors", "*.gguf"),
    "tokenizer_sha256": ("tokenizer*", "vocab*", "merges.txt"),
}
_ADAPTER = "adapter_"  # how the names of PEFT's files begin


def hashes(folder: Path) -> dict[str, str]:
    """Hashes of the weights and of the tokenizer, whatever files they consist of.

    An adapter that lies beside a model is no part of it.
    """
    return {
        name: _combined(
            [
                path
                for pattern in patterns
                for path in folder.glob(pattern)
                if not path.name.startswith(_ADAPTER)
            ]
        )
        for name, patterns in _FILES.items()
    }


def _combined(files: Sequence[Path]) -> str:
    """One hash over the names and contents of some files."""
    lines = [f"{path.name} {_digest(path.resolve(), *_state(path))}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    """What changes when a file is written to: its size and the time."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=512)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """A file's hash, once a process: several parts of a run ask which weights these are."""
    return sha256_of(path)
