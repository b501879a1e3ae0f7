"""What a checkpoint is: hashes of its weights and its tokenizer, and what it says of a text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.checkpoints.families import Fingerprint
from lensbench.files import sha256_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

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


def config_fact(folder: Path) -> dict[str, str | None]:
    """The hash of the config, which makes another model of the same weights; null in a GGUF."""
    config = folder / "config.json"
    return {"config_sha256": sha256_of(config) if config.is_file() else None}


FINGERPRINT_BITS = 5e-3  # another machine's float32 differs by less, another model by far more


def fingerprint_error(
    fingerprint: Fingerprint,
    token_ids: Sequence[int],
    next_logits: Callable[[Sequence[int]], Float[Tensor, " d_vocab"]],
) -> float:
    """By how many bits the likeliest tokens are now less or more likely; infinite for other tokens.

    `token_ids` are those of the fingerprint's text, `next_logits` gives the logits after some.
    """
    if tuple(token_ids) != fingerprint.token_ids:
        return math.inf
    bits = next_logits(token_ids).double().log_softmax(-1) / math.log(2)
    pairs = zip(fingerprint.top_ids, fingerprint.top_bits, strict=True)
    return max(abs(float(bits[token]) - stored) for token, stored in pairs)


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
