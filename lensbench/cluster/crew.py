"""The crew: workers that do the jobs of one record after another."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lensbench.again import models_sent
from lensbench.cluster.connect import ClusterError, forget
from lensbench.cluster.placement import bytes_needed, default_workers, share
from lensbench.cluster.shared import SharedFolder
from lensbench.cluster.shift import Member, Shift
from lensbench.cluster.spec import WorkersSpec
from lensbench.cluster.staged import left, take_in
from lensbench.cluster.worker import Home, Worker
from lensbench.records.engine import Job
from lensbench.records.parts import Part, Parts
from lensbench.records.read import MANIFEST

_log = logging.getLogger(__name__)


class Crew:
    """An `Executor`. Its workers start at once, and read their libraries meanwhile."""

    def __init__(self, ray: Any, spec: WorkersSpec, threads: int) -> None:
        self._ray, self._spec, self._threads = ray, spec, threads
        there = ray.cluster_resources()
        n = spec.workers or default_workers(there, self._threads)
        self._n = n
        self._hire = ray.remote(Worker).options(**share(there, n)).remote
        self._members: list[Member] = []
        self._start()

    def _start(self) -> None:
        _log.info(
            "starting %d worker%s, %d thread(s) each", self._n, "s" * (self._n > 1), self._threads
        )
        self._members = [self.hired(number) for number in range(1, self._n + 1)]

    def hired(self, number: int) -> Member:
        """A new worker, which reads its libraries at once."""
        actor = self._hire(str(Path.cwd()), self._threads)
        actor.read_libraries.remote()
        return Member(number, actor)

    def __call__(
        self,
        do: Callable[[Any, Job[Any]], Part],
        context: Any,
        jobs: Sequence[Job[Any]],
        parts: Parts,
    ) -> Iterator[Job[Any]]:
        """Jobs that a run left in the shared folder when it was stopped are done already.

        Raises what a job raises, and ClusterError.
        """
        self._keep_to(torch.get_num_threads())
        with _shown(parts.folder.parent, self._spec.shared_folder) as home:
            taken = self._taken_in(jobs, parts, home)
            yield from taken
            rest = [job for job in jobs if job not in taken]
            if rest:
                packed, needed, device = self._packed(do, context)
                shift = Shift(self._ray, self._members, self.hired, home, parts)
                yield from shift.done(rest, packed, needed, device)

    def dismiss(self) -> None:
        """End all workers at once."""
        for member in self._members:
            forget(self._ray, member.actor)
        self._members.clear()

    def _keep_to(self, threads: int) -> None:
        """Workers with as many threads as this process has now: a record keeps to its number."""
        if threads != self._threads:
            self.dismiss()
            self._threads = threads
        if not self._members:  # nor after something went wrong with another record
            self._start()

    def _taken_in(self, jobs: Sequence[Job[Any]], parts: Parts, home: Home) -> list[Job[Any]]:
        """The jobs whose parts a run left in the shared folder when it was stopped."""
        if home.shared is None:
            return []
        shared = SharedFolder(home.shared)
        there = left(shared, home.place)
        found = [job for job in jobs if job.number in there]
        for job in found:
            take_in(shared, home.place, job.number, parts)
        return found

    def _packed(self, do: Any, context: Any) -> tuple[Any, int, str]:
        """What workers make the context of, the memory that one needs, and on which device."""
        cloudpickle = self._ray.cloudpickle
        try:
            with models_sent() as models:
                packed = cloudpickle.dumps((do, context))
        except (TypeError, AttributeError, cloudpickle.pickle.PicklingError) as error:
            raise ClusterError(
                f"The jobs of this run cannot be given to workers ({error}). Leave --workers out."
            ) from error
        needed = bytes_needed(models)
        devices = {str(facts["device"]) for facts in models}
        return self._ray.put(packed), needed, "cuda" if "cuda" in devices else "cpu"


@contextmanager
def _shown(record: Path, shared: str | None) -> Iterator[Home]:
    """The record's folder with a file in it by which a worker knows that it sees the same one."""
    proof = record / f".{uuid.uuid4().hex}.part"  # swept away with what killed writers leave
    proof.touch()
    place = hashlib.sha256((record / MANIFEST).read_bytes()).hexdigest()[:32]
    try:
        yield Home(str(record.resolve()), proof.name, shared, place)
    finally:
        proof.unlink(missing_ok=True)
