"""Checkpoints that a training goes on from: each is whole and unaltered, or is not used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from safetensors import SafetensorError

from lensbench.errors import RecordsError, first_line
from lensbench.files import sha256_of, write_text
from lensbench.json_text import read_json
from lensbench.records.schema.adapters import TRAINING

if TYPE_CHECKING:
    from transformers import TrainerState

CHECKPOINTS = "checkpoints"  # a folder that a finished run has no more
WHOLE = "whole"  # a file that is put into a checkpoint after everything else


def seal(checkpoint: Path) -> None:
    """Say that a checkpoint is whole, and what is in it."""
    write_text(checkpoint / WHOLE, json.dumps(_digests(checkpoint), indent=1))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise RecordsError where what is written inside does not fit onto the disk."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RecordsError(
            f"{folder} cannot be written ({first_line(error)}). What was written before is kept: "
            "free some space and run the same command again."
        ) from error


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole. Raises RecordsError where it was altered since."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    if newest is not None:
        _require_unaltered(newest)
    return newest


def drop_torn(folder: Path) -> None:
    """Remove checkpoints that something interrupted the writing of.

    The Trainer counts them when it makes room, and would drop a whole one in their place.
    """
    for path in folder.glob("checkpoint-*"):
        if not (path / WHOLE).exists():
            shutil.rmtree(path)


def state_of(checkpoint: Path) -> TrainerState:
    """What the Trainer says about a checkpoint."""
    from transformers import TrainerState

    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def log_of(checkpoint: Path) -> pa.Table:
    """The Trainer's log as a record's table; the Trainer calls a loss in nats just a loss."""
    rows = [
        {name: row.get(name.removesuffix("_nats")) for name in TRAINING.names}
        for row in state_of(checkpoint).log_history
    ]
    return TRAINING.of_rows(rows)


def _require_unaltered(checkpoint: Path) -> None:
    try:
        said = read_json(checkpoint / WHOLE)
    except ValueError:
        said = None
    if said != _digests(checkpoint):
        raise RecordsError(
            f"{checkpoint}: it was altered after it was written (the sha256 of a file differs). "
            "Delete it and run the same command again: it goes on from the one before."
        )


def _digests(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint."""
    files = sorted(path for path in checkpoint.iterdir() if path.is_file() and path.name != WHOLE)
    return {path.name: sha256_of(path) for path in files if not path.name.startswith(".")}
