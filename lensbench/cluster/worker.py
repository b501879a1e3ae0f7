"""One worker: a process that holds what jobs are done with, and does them one after another.

It is made by Ray, far away perhaps; nothing of torch is read before its threads are known.
"""

from __future__ import annotations

import logging
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensbench.cluster.home import Home
    from lensbench.records.engine import Job


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
    """What a worker sends back: what it was told on the way, and a part that it could not write."""

    said: list[str] = field(default_factory=list)
    files: dict[str, bytes] | None = None
    staged: bool = False  # the part lies in the shared folder


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

    def open(self, packed: bytes, home: Home) -> None:
        """Make ready for jobs. Raises what loading raises."""
        from ray import cloudpickle

        from lensbench.records.parts import Parts

        self._parts, self._home = Parts(Path(home.folder)), home
        self._sees = (Path(home.folder) / home.proof).is_file()
        with _listening():  # the driver's user was told the same when it loaded the same
            self._do, self._context = cloudpickle.loads(packed)

    def do(self, job: Job[Any]) -> Reply:
        """Do a job. Its part is written into the record, or where the driver can take it from."""
        with _listening() as said:
            part = self._do(self._context, job)
        files = self._parts.files(job.number, part)
        if self._sees:
            self._parts.put(files)
            return Reply(said)
        if self._home.shared is None:
            return Reply(said, files=files)
        from lensbench.cluster.shared import SharedFolder
        from lensbench.cluster.staged import leave

        leave(SharedFolder(self._home.shared), self._home.place, job.number, files)
        return Reply(said, staged=True)


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What the package says and what is warned of inside, for the driver's user."""
    said: list[str] = []

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, heard = logging.getLogger("lensbench"), Heard()
    log.setLevel(logging.INFO)
    log.addHandler(heard)
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield said
    finally:
        log.removeHandler(heard)
    said += [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
