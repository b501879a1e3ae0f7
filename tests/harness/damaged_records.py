"""Records with a byte altered or lost, and everything that a reader of one is given."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lensbench.records.open import open_record

Damage = Callable[[bytearray, int, random.Random], bytearray]


def read_all(folder: Path) -> dict[str, object]:
    """The manifest and every table."""
    record = open_record(folder)
    return {"manifest": record.manifest, **{name: record.arrow(name) for name in record.tables}}


def flip(data: bytearray, at: int, chance: random.Random) -> bytearray:
    """One bit of the byte at a place."""
    data[at] ^= 1 << chance.randrange(8)
    return data


def cut(data: bytearray, at: int, chance: random.Random) -> bytearray:
    """The end from a place on."""
    return data[:at]


def damaged_copies(
    record: Path, room: Path, damages: Sequence[Damage], times: int, seed: int = 0
) -> Iterator[tuple[Path, Path]]:
    """Copies of a record, each damage in turn at a random place; the copy and the file that has it.

    A copy is gone when the next one is asked for.
    """
    chance = random.Random(seed)
    files = sorted(path.name for path in record.iterdir() if path.name != ".lock")
    for i in range(times):
        copy = Path(shutil.copytree(record, room / f"damaged-{i}"))
        path = copy / chance.choice(files)
        data = bytearray(path.read_bytes())
        path.write_bytes(damages[i % len(damages)](data, chance.randrange(len(data)), chance))
        yield copy, path
        shutil.rmtree(copy)
