"""What the last run into a folder could not measure, and why: such models have no record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lensbench.errors import RecordsError
from lensbench.files import write_text
from lensbench.json_text import read_json
from lensbench.records.store import disk_error

FAILED = "failed.json"  # beside the records of a run


def note_failures(folder: Path, failed: Mapping[str, Exception]) -> None:
    """Write why each of them failed; where none did there is no file.

    Raises RecordsError where it cannot be written.
    """
    told = {name: " ".join(str(error).split()) for name, error in failed.items()}
    _write_failures(folder, told)


def forget_failure(folder: Path, model: str) -> None:
    """A model is measured now: what an earlier run said of it does not wait for this one's end.

    A file that no run wrote does, and is replaced then. Raises as `note_failures`.
    """
    try:
        there = read_failures(folder)
    except RecordsError:
        return
    if there.pop(model, None) is not None:
        _write_failures(folder, there)


def _write_failures(folder: Path, told: Mapping[str, str]) -> None:
    path = folder / FAILED
    try:
        if told:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error


def read_failures(folder: Path) -> dict[str, str]:
    """Why each model of the last run into a folder failed.

    Raises RecordsError for a file that a run did not write.
    """
    path = folder / FAILED
    try:
        found = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, OSError) as error:
        raise RecordsError(f"{path}: {error}. Delete it, or run the analysis again.") from error
    if not isinstance(found, dict) or not all(isinstance(why, str) for why in found.values()):
        raise RecordsError(f"{path}: it is no list of failures. Delete it, or run it again.")
    return found
