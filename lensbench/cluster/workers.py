"""Runs inside are done by workers: `with workers(4): run(...)`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lensbench.cluster.spec import WorkersSpec
from lensbench.records.engine import done_by, one_by_one

if TYPE_CHECKING:
    from lensbench.cluster.crew import Crew

_log = logging.getLogger(__name__)


@contextmanager
def workers(
    workers: int | None = None,
    *,
    ray: str | None = None,
    shared_folder: str | None = None,
    threads: int | None = None,
) -> Iterator[None]:
    """Let workers do the jobs of every record that is made inside.

    >>> with lb.workers(2):
    ...     lb.run(spec, "runs/two")

    A record's tables are the same, byte for byte, whoever does its jobs and whatever dies on the
    way. This process keeps the model too: it plans the jobs, does them until the first worker is
    ready, and makes the tables. Trainings of several seeds are made whole, each by a worker, which
    has to see their folder; one that dies costs what was since its training's last checkpoint.

    Args:
        workers: how many processes, each with the model; on a cluster by default one for each GPU,
            or for as many cores as one has threads.
        ray: HOST:PORT of a cluster that this machine is part of, or "auto"; None: this machine.
        shared_folder: where workers that do not see the record's folder leave parts: a path, or a
            URL (s3://, gs://, what fsspec knows); None: they send them back.
        threads: to a sum, in each process. It decides last digits, so a record that was begun keeps
            to its own number; for a new one None is torch's in this process.

    Raises:
        InputProblems: values that make no sense together.
        MissingExtraError: Ray is not installed.
        ClusterError: nothing answers at the address, workers of another kind than this process, or
            that die again and again.
    """
    spec = WorkersSpec(workers=workers, ray=ray, shared_folder=shared_folder, threads=threads)
    with working(spec):
        yield


@contextmanager
def working(spec: WorkersSpec | None) -> Iterator[None]:
    """The same, of a spec; without workers in it this process does the jobs."""
    if spec is None or spec.here:
        with done_by(one_by_one, None if spec is None else spec.threads):
            yield
        return
    from lensbench.cluster.connect import meanwhile

    require_reachable(spec)
    with meanwhile(_crew(spec, _threads(spec))) as crew:
        from lensbench.cluster.executor import by_workers
        from lensbench.cluster.whole import makers_of

        execute = by_workers(crew, spec.shared_folder)
        with done_by(execute, spec.threads, crew, makers_of(crew, spec)):
            yield


def require_reachable(spec: WorkersSpec) -> None:
    """Raise within seconds, before anything is started, where Ray or the shared folder is missing.

    ClusterError and MissingExtraError as `require_ray` does, and what the folder's room raises.
    """
    from lensbench.cluster.connect import require_ray
    from lensbench.cluster.folders.shared import SharedFolder

    require_ray(spec.ray)
    if spec.shared_folder is not None:
        SharedFolder(spec.shared_folder).require_room()


@contextmanager
def _crew(spec: WorkersSpec, threads: int) -> Iterator[Crew]:
    """Workers from when a record is begun until the end of the block."""
    from lensbench.cluster.connect import ray_at

    _log.info("joining Ray" if spec.ray else "starting Ray")
    with ray_at(spec.ray) as connected:
        from lensbench.cluster.crew import Crew

        crew = Crew(connected, spec, threads)
        try:
            yield crew
        finally:
            crew.dismiss()


def _threads(spec: WorkersSpec) -> int:
    """Of each worker, as this thread has it: another thread of this process may have others."""
    import torch

    return spec.threads or torch.get_num_threads()
