"""Parts on their way: left in the shared folder by workers, taken into the record by the driver."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lensbench.cluster.folders.home import Home
from lensbench.cluster.folders.shared import SharedFolder
from lensbench.records.engine import Job
from lensbench.records.parts import Parts

_WHOLE = "staged"  # a part's last file: which files it has


def leave(shared: SharedFolder, place: str, number: int, files: Mapping[str, bytes]) -> None:
    """Leave a part's files; it is there once the list of them is, the last one written."""
    folder = f"{place}/{number:06d}"
    for name, data in files.items():
        shared.write(f"{folder}/{name}", data)
    shared.write(f"{folder}/{_WHOLE}", json.dumps([*files]).encode())


def take_in(shared: SharedFolder, place: str, number: int, parts: Parts) -> None:
    """A part into the record, and out of the shared folder."""
    folder = f"{place}/{number:06d}"
    names = json.loads(shared.read(f"{folder}/{_WHOLE}"))
    parts.put({name: shared.read(f"{folder}/{name}") for name in names})
    for name in (_WHOLE, *names):
        shared.remove(f"{folder}/{name}")


def left(shared: SharedFolder, place: str) -> set[int]:
    """The numbers of whole parts that lie there, of a run that was stopped before it took them."""
    names = [name.split("/") for name in shared.names(place)]
    return {int(path[0]) for path in names if path[1:] == [_WHOLE]}


def taken_in(jobs: Sequence[Job[Any]], parts: Parts, home: Home) -> list[Job[Any]]:
    """The jobs whose parts a run left in the shared folder when it was stopped."""
    if home.shared is None:
        return []
    shared = SharedFolder(home.shared)
    there = left(shared, home.place)
    found = [job for job in jobs if job.number in there]
    for job in found:
        take_in(shared, home.place, job.number, parts)
    return found
