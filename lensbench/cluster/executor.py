"""The jobs of a record with workers: this process does them until a worker can, then workers do.

It holds the model too, for it plans the jobs and makes the tables. A part is the same whoever makes
it, so the seconds in which workers start and load are not waited for.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from lensbench.cluster.assignment import OfOneRecord
from lensbench.cluster.folders.home import shown
from lensbench.cluster.folders.staged import taken_in
from lensbench.records.engine import Executor, Job, here_until
from lensbench.records.parts import Part, Parts

if TYPE_CHECKING:
    from lensbench.cluster.crew import Crew

_NOT_NEEDED = "every job is done, and no worker was ready yet"

_log = logging.getLogger(__name__)


def by_workers(crew: Callable[[], Future[Crew]], shared_folder: str | None) -> Executor:
    """`crew` gives the workers, which may still be starting.

    A worker waits at most for the job at which this process is when it becomes ready. A job that
    has ended a worker is never done here.
    """

    def execute(
        do: Callable[[Any, Job[Any]], Part], context: Any, jobs: Sequence[Job[Any]], parts: Parts
    ) -> Iterator[Job[Any]]:
        from lensbench.checkpoints.stored.heap import release

        begun = crew()
        with shown(parts.folder.parent, shared_folder) as home:
            taken = taken_in(jobs, parts, home)
            yield from taken
            left = deque(job for job in jobs if job not in taken)
            _log.info("jobs are done here until a worker has loaded")
            yield from here_until(begun.done, do, context, left, parts)
            if not left:
                _log.info(_NOT_NEEDED)
                return
            with begun.result().shift(do, context, OfOneRecord(home, parts), len(left)) as shift:
                yield from here_until(shift.ready, do, context, left, parts)
                parts.n_workers = min(shift.n_members, len(left))
                _log.info("a worker is ready: workers do the rest" if left else _NOT_NEEDED)
                release()  # workers may need what this process took for its jobs
                yield from shift.done(left)

    return execute
