"""What workers are asked for, and what becomes of their answers: parts of one record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from lensbench.cluster.folders.home import Home
from lensbench.cluster.folders.shared import SharedFolder
from lensbench.cluster.folders.staged import take_in
from lensbench.cluster.worker import Reply
from lensbench.errors import RecordsError
from lensbench.progress import once
from lensbench.records.engine import Job
from lensbench.records.parts import Parts

_SEEN_S = 60.0  # until what a worker has written is seen here: network disks are slow

_log = logging.getLogger(__name__)


class Assignment(Protocol):
    """Jobs of one kind. `most`: how many a worker is sent, to begin the next one at once.

    `home` is where their results go; whether workers have to see it (`in_sight`).
    """

    most: int
    home: Home
    in_sight: bool

    def ask(self, actor: Any, job: Job[Any]) -> Any:
        """Send a worker a job: its answer, or the stream of them."""

    def has(self, job: Job[Any]) -> bool:
        """Its result is there."""

    def take(self, job: Job[Any], reply: Reply) -> bool:
        """An answer: whether the job is done, and its result there. Raises RecordsError."""


class OfOneRecord:
    """Parts of one record, each written by a worker that sees its folder or sent back."""

    most, in_sight = 2, False

    def __init__(self, home: Home, parts: Parts) -> None:
        self.home, self._parts = home, parts
        self._tell = once(lambda text: _log.info("%s", text))

    def ask(self, actor: Any, job: Job[Any]) -> Any:
        return actor.do.remote(job)

    def has(self, job: Job[Any]) -> bool:
        return self._parts.has(job.number)

    def take(self, job: Job[Any], reply: Reply) -> bool:
        for text in reply.said:
            self._tell(text)
        if reply.files is not None:
            self._parts.put(reply.files)
        elif reply.staged:
            take_in(SharedFolder(str(self.home.shared)), self.home.place, job.number, self._parts)
        written = f"{self._parts.folder}: a worker has written part {job.number}"
        require_seen(lambda: self.has(job), written)
        return True


def require_seen(there: Callable[[], bool], written: str) -> None:
    """Raise RecordsError where what a worker has `written` is not seen here in a minute."""
    deadline = time.monotonic() + _SEEN_S
    while not there():
        if time.monotonic() > deadline:
            raise RecordsError(
                f"{written}, and it is not seen here. Is this the same folder on every machine?"
            )
        time.sleep(0.1)
