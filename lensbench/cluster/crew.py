"""The crew: workers that do the jobs of one record after another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lensbench.again import models_sent
from lensbench.cluster.assignment import Assignment
from lensbench.cluster.connect import ClusterError, forget
from lensbench.cluster.placement import bytes_needed, default_workers, share
from lensbench.cluster.shift import Load, Member, Shift
from lensbench.cluster.spec import WorkersSpec
from lensbench.cluster.worker import Worker

_log = logging.getLogger(__name__)


class Crew:
    """Workers. They start at once, and read their libraries meanwhile."""

    def __init__(self, ray: Any, spec: WorkersSpec, threads: int) -> None:
        self._ray, self._spec, self._threads = ray, spec, threads
        there = ray.cluster_resources()
        n = spec.workers or default_workers(there, self._threads)
        self._n, self._cores = n, there.get("CPU", 1.0)
        self._hire = ray.remote(Worker).options(**share(there, n)).remote
        self._members: list[Member] = []
        self._start()

    def _start(self) -> None:
        turns = f" on {self._cores:g} cores, which they share" if self._n > self._cores else ""
        _log.info(
            "starting %d worker%s%s, threads each: %d",
            self._n,
            "s" * (self._n > 1),
            turns,
            self._threads,
        )
        self._members = [self.hired(number) for number in range(1, self._n + 1)]

    def hired(self, number: int) -> Member:
        """A new worker, which reads its libraries at once."""
        actor = self._hire(str(Path.cwd()), self._threads)
        actor.read_libraries.remote()
        return Member(number, actor)

    def shift(
        self,
        do: Callable[..., Any],
        context: Any,
        assignment: Assignment,
        n_jobs: int,
        more_bytes: int = 0,
        device: str = "cpu",
    ) -> Shift:
        """Workers for so many jobs: they load inside it. Raises ClusterError.

        A job takes `more_bytes` on the `device`, beside the models of the context and on theirs.
        """
        self._keep_to(torch.get_num_threads())
        load = self._load(do, context, more_bytes, device)
        return Shift(self._ray, self._members, self.hired, assignment, load, n_jobs)

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

    def _load(self, do: Any, context: Any, more_bytes: int, device: str) -> Load:
        """What each of them loads for a record."""
        cloudpickle = self._ray.cloudpickle
        try:
            with models_sent() as models:
                packed = cloudpickle.dumps((do, context))
        except (TypeError, AttributeError, cloudpickle.pickle.PicklingError) as error:
            raise ClusterError(
                f"The jobs of this run cannot be given to workers ({error}). Leave --workers out."
            ) from error
        devices = {device, *(str(facts["device"]) for facts in models)}
        device = "cuda" if "cuda" in devices else "cpu"
        return Load(self._ray.put(packed), bytes_needed(models) + more_bytes, device)
