"""One worker: a process that holds what jobs are done with, and does them one after another.

It is made by Ray, far away perhaps; nothing of torch is read before its threads are known.
"""

from __future__ import annotations

import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from lensbench.errors import LensbenchError
from lensbench.progress import Progress, ignore

if TYPE_CHECKING:
    from lensbench.cluster.folders.home import Home
    from lensbench.records.engine import Job, Outcome

    Event = str | Progress | None

_TELL_S = 0.2  # between two answers on the way

_LIBRARIES = ("torch", "transformers", "transformer_lens.model_bridge")  # seconds to read


@dataclass(frozen=True)
class Place:
    """Where a worker is, and how much memory can still be taken there."""

    host: str
    device: str  # which GPU, or empty
    process: int
    kind: dict[str, str]
    free_bytes: int


@dataclass(frozen=True)
class Reply:
    """What a worker sends back: what it was told on the way, and a part that it could not write.

    Of a whole record how far it is, until it is made or could not be.
    """

    said: list[str] = field(default_factory=list)
    files: dict[str, bytes] | None = None
    staged: bool = False  # the part lies in the shared folder
    progress: list[Progress] = field(default_factory=list)
    outcome: Outcome | None = None
    error: Exception | None = None


class Worker:
    """The process. Its context is made there: models are loaded by name and never sent."""

    def __init__(self, folder: str, threads: int) -> None:
        # Before numpy and torch: how many threads share a sum decides last digits. Threads that
        # wait passively cost the other workers of a machine nothing.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if Path(folder).is_dir():
            os.chdir(folder)  # relative names mean what they mean to the driver
        self._threads = threads
        self._do: Any = None
        self._context: Any = None

    def read_libraries(self) -> None:
        """While the driver still loads and plans. What is missing is said when it is used."""
        for name in _LIBRARIES:
            with suppress(ImportError):
                import_module(name)

    def place(self, kind_of_device: str) -> Place:
        """Let go of earlier work, and say where this is."""
        import torch

        from lensbench.checkpoints.devices import memory_available
        from lensbench.cluster.kind import kind

        torch.set_num_threads(self._threads)
        self._do = self._context = None
        own = os.environ.get("CUDA_VISIBLE_DEVICES", "") if kind_of_device == "cuda" else ""
        free_bytes = memory_available(kind_of_device)
        return Place(platform.node(), own, os.getpid(), kind(), free_bytes)

    def open(self, packed: bytes, home: Home) -> bool:
        """Make ready for jobs; whether the home is seen. Raises what loading raises."""
        from ray import cloudpickle

        from lensbench.records.parts import Parts

        self._parts, self._home = Parts(Path(home.folder)), home
        self._sees = (Path(home.folder) / home.proof).is_file()
        with _listening(ignore):  # the driver's user was told the same when it loaded the same
            self._do, self._context = cloudpickle.loads(packed)
        return self._sees

    def do(self, job: Job[Any]) -> Reply:
        """Do a job. Its part is written into the record, or where the driver can take it from."""
        said: list[str] = []
        with _listening(said.append):
            part = self._do(self._context, job)
        files = self._parts.files(job.number, part)
        if self._sees:
            self._parts.put(files)
            return Reply(said)
        if self._home.shared is None:
            return Reply(said, files=files)
        from lensbench.cluster.folders.shared import SharedFolder
        from lensbench.cluster.folders.staged import leave

        leave(SharedFolder(self._home.shared), self._home.place, job.number, files)
        return Reply(said, staged=True)

    def make(self, job: Job[Any]) -> Iterator[Reply]:
        """Make a whole record of a spec, in another thread; what is told meanwhile, and the end.

        An error of this record is sent as it is: others can be made.
        """
        events: SimpleQueue[Event] = SimpleQueue()
        pool = ThreadPoolExecutor(1)
        made = pool.submit(self._make, job.item, events.put)
        made.add_done_callback(lambda _: events.put(None))
        pool.shutdown(wait=False)
        yield from _told(events)
        try:
            yield Reply(outcome=made.result())
        except (LensbenchError, OSError) as error:
            yield Reply(error=error)

    def _make(self, spec: Any, tell: Callable[[Event], None]) -> Outcome:
        import torch

        from lensbench.records.engine import done_by, one_by_one

        torch.set_num_threads(self._threads)  # of this thread: each has its own number
        with _listening(tell), done_by(one_by_one, self._context):
            made: Outcome = self._do(spec, tell, tell)
        return made


def _told(events: SimpleQueue[Event]) -> Iterator[Reply]:
    """What comes up, a few times a second, until None does: of each stage how far it is by then."""
    last: Event = ""
    while last is not None:
        some = [events.get()]
        time.sleep(_TELL_S)
        while not events.empty():
            some.append(events.get())
        last = some[-1]
        stages = {now.stage: now for now in some if isinstance(now, Progress)}
        said = [text for text in some if isinstance(text, str)]
        yield Reply(said, progress=[*stages.values()])


@contextmanager
def _listening(hear: Callable[[str], None]) -> Iterator[None]:
    """What the package says and what is warned of inside, for the driver's user."""

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            hear(record.getMessage())

    def warned(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, UserWarning):
            hear(str(message))

    log, heard = logging.getLogger("lensbench"), Heard()
    log.setLevel(logging.INFO)
    log.addHandler(heard)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = warned
            yield
    finally:
        log.removeHandler(heard)
