"""Jobs shared out among workers, and what happens when one of them dies."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensbench.cluster.assignment import Assignment
from lensbench.cluster.connect import ClusterError, forget
from lensbench.cluster.kind import require_alike
from lensbench.cluster.placement import n_fitting
from lensbench.cluster.worker import Place
from lensbench.errors import LensbenchError
from lensbench.records.engine import Job

_MOST_STRIKES = 5  # workers that may die on one job before it is taken to be the cause
_MOST_DEATHS = 10  # of workers, for each one there is, with no job done between
_PATIENCE_S = 600.0  # for the first worker to start
_TELL_S = 30.0  # after which it is said that nothing has happened

_MISSING = "No module named"

_log = logging.getLogger(__name__)


@dataclass
class Member:
    """One worker as the driver knows it. `asked`: the jobs it was sent, and what answers each."""

    number: int
    actor: Any
    place: Place | None = None
    placing: Any = None  # its answer where it is
    opening: Any = None  # its answer that it is ready for jobs
    asked: deque[tuple[Any, Job[Any]]] = field(default_factory=deque)

    @property
    def awaited(self) -> Any:
        """The answer that comes next; None where nothing was asked."""
        first = self.asked[0][0] if self.asked else None
        return self.placing or self.opening or first

    @property
    def ready(self) -> bool:
        """It can do jobs."""
        return self.place is not None and self.placing is None and self.opening is None

    def __str__(self) -> str:
        return f"worker {self.number}" + (f" on {self.place.host}" if self.place else "")


@dataclass(frozen=True)
class Load:
    """What each worker makes the jobs' context of, the memory that it takes, and on what device."""

    packed: Any
    needed_bytes: int
    device: str


class Shift:
    """An assignment's jobs, done by a crew's members. `hired` gives a new one for a dead one.

    In its block workers are asked to load, as many as there are jobs for; an error ends them all.
    """

    def __init__(
        self,
        ray: Any,
        members: list[Member],
        hired: Callable[[int], Member],
        assignment: Assignment,
        load: Load,
        n_jobs: int,
    ) -> None:
        self._ray, self._members, self._hired = ray, members, hired
        self._assignment, self._load, self._n_jobs = assignment, load, n_jobs
        self._queue: deque[Job[Any]] = deque()
        self._strikes: Counter[int] = Counter()
        self._deaths = 0  # since a job was done
        self._free: dict[tuple[str, str], int] = {}  # memory where workers are, before they load
        self._idle: list[str] = []  # why workers cannot take part

    def __enter__(self) -> Shift:
        for member in self._members:
            member.place = member.placing = member.opening = None
        for member in self._members[: self._n_jobs]:
            self._call(member)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # nobody waits for their answers any more
            for member in self._members:
                forget(self._ray, member.actor)
            self._members.clear()

    @property
    def n_members(self) -> int:
        """How many workers there are."""
        return len(self._members)

    def ready(self) -> bool:
        """Whether a worker can do jobs; those that have answered are heard, nobody is waited for.

        Raises what loading raises, and ClusterError.
        """
        while not any(member.ready for member in self._members):
            member = self._answered(within_s=0)
            if member is None:
                return False
            yielded = [*self._heard(member)]
            assert not yielded, "nobody was asked for a job yet"
        return True

    def done(self, jobs: Iterable[Job[Any]]) -> Iterator[Job[Any]]:
        """Each job when its part is in the record.

        Raises what a job or loading raises, and ClusterError.
        """
        self._queue.extend(jobs)
        while self._queue or any(member.asked for member in self._members):
            self._share_out()
            yield from self._heard(self._next())

    def _call(self, member: Member) -> None:
        """Ask a worker where it is."""
        member.placing = member.actor.place.remote(self._load.device)

    def _share_out(self) -> None:
        """A job for each that has none; perhaps a second one to begin at once if many are left."""
        for most in range(1, self._assignment.most + 1):
            for member in self._members:
                many = most == 1 or len(self._queue) > len(self._members)
                if member.ready and self._queue and len(member.asked) < most and many:
                    job = self._queue.popleft()
                    member.asked.append((self._assignment.ask(member.actor, job), job))

    def _next(self) -> Member:
        """The worker that answers first."""
        started, said = time.monotonic(), False
        while (member := self._answered(_TELL_S)) is None:
            waiting = all(member.place is None for member in self._members)
            if waiting and time.monotonic() - started > _PATIENCE_S:
                raise ClusterError(f"No worker has started within {_PATIENCE_S:g} s: {self._taken}")
            if waiting and not said:
                _log.info("no worker has started yet: %s", self._taken)
                said = True
        return member

    def _answered(self, within_s: float) -> Member | None:
        """The worker that answers first, if one does in time. Raises ClusterError: none will."""
        awaited = {one.awaited: one for one in self._members if one.awaited is not None}
        if not awaited:
            raise ClusterError(f"No worker can take part: {'; '.join(self._idle)}.")
        there, _ = self._ray.wait([*awaited], num_returns=1, timeout=within_s)
        return awaited[there[0]] if there else None

    @property
    def _taken(self) -> str:
        free = self._ray.available_resources()
        return f"of the cluster's cores {free.get('CPU', 0):g} are free"

    def _heard(self, member: Member) -> Iterator[Job[Any]]:
        """What a worker answers: where it is, that it is ready, that a job is done; or nothing."""
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(_next(member.awaited))
        except errors.RayTaskError as error:
            if isinstance(error.cause, LensbenchError | OSError):
                raise error.cause from None
            if isinstance(error.cause, Exception):  # as in one process, with the worker's traceback
                raise error.cause from error
            raise
        except errors.RayError as error:
            yield from self._lost(member, error)
            return
        if member.placing is not None:
            member.placing = None
            self._seat(member, answer)
        elif member.opening is not None:
            member.opening = None
            self._require_sight(member, answer)
        else:
            _, job = member.asked[0]
            self._deaths = 0
            if self._assignment.take(job, answer):
                member.asked.popleft()
                yield job

    def _seat(self, member: Member, place: Place) -> None:
        """Let a worker load, if it is of our kind and there is memory for one more."""
        require_alike(place.host, place.kind)
        where = (place.host, place.device)
        needed = self._load.needed_bytes
        free = self._free.setdefault(where, place.free_bytes)
        seated = [one for one in self._members if one.place and one is not member]
        here = sum((one.place.host, one.place.device) == where for one in seated if one.place)
        if here < n_fitting(free, needed):
            member.place = place
            member.opening = member.actor.open.remote(self._load.packed, self._assignment.home)
            return
        self._leave_out(
            member,
            f"{place.host} has {free / 1e9:.1f} GB free, and each takes {needed / 1e9:.1f} GB",
        )

    def _require_sight(self, member: Member, sees: bool) -> None:
        """Leave out a worker that does not see the folder, where it has to write there."""
        if self._assignment.in_sight and not sees:
            folder = Path(self._assignment.home.folder).absolute()
            assert member.place is not None
            self._leave_out(
                member,
                f"{member.place.host} does not see {folder}, where its files are to lie (give a "
                "folder that every machine of the cluster sees by the same name)",
            )

    def _leave_out(self, member: Member, why: str) -> None:
        member.place = None
        self._idle.append(why)
        _log.info("worker %d stays idle: %s", member.number, why)

    def _lost(self, member: Member, error: Exception) -> Iterator[Job[Any]]:
        """A worker has died: a new one in its place, and its jobs are to be done again."""
        jobs = [job for _, job in member.asked]
        if jobs and self._assignment.has(jobs[0]):  # it died when that was written
            yield jobs.pop(0)
        elif jobs:
            self._strikes[jobs[0].number] += 1
        self._deaths += 1
        why = _why(error)
        self._require_hope(member, why, jobs)
        _log.info("%s has died (%s): another one takes its place", member, why)
        self._queue.extendleft(reversed(jobs))
        forget(self._ray, member.actor)
        new = self._hired(member.number)
        self._members[self._members.index(member)] = new
        self._call(new)

    def _require_hope(self, member: Member, why: str, jobs: Sequence[Job[Any]]) -> None:
        """Raise ClusterError where going on would only lose more workers."""
        if why.startswith(_MISSING):
            raise ClusterError(
                f"{why} where workers run. Install the same lensbench on every machine, for the "
                "Python that the cluster was started with."
            )
        kept = "What was measured is kept: run the same command again to go on."
        if jobs and self._strikes[jobs[0].number] >= _MOST_STRIKES:
            raise ClusterError(
                f"{_MOST_STRIKES} workers have died on job {jobs[0].number}, the last one "
                f"({member}) because: {why}. Give fewer workers, or find what is wrong with it by "
                f"a run without --workers. {kept}"
            )
        if self._deaths >= _MOST_DEATHS * len(self._members):
            begun = any(one.place for one in self._members)
            hint = (
                "" if begun else "On a cluster, RAY_AUTH_MODE has to be the same here and there. "
            )
            raise ClusterError(
                f"{self._deaths} workers have died one after another and no job was done between, "
                f"the last one ({member}) because: {why}. {hint}{kept}"
            )


def _next(answer: Any) -> Any:
    """The answer itself, or of a stream of them the one that comes next."""
    return next(answer) if isinstance(answer, Iterator) else answer


def _why(error: Exception) -> str:
    """Why a worker died, of all that Ray says of it."""
    said = " ".join(str(error).split())
    if "OutOfMemory" in type(error).__name__ or "NODE_OUT_OF_MEMORY" in said:
        return "its machine ran out of memory"
    if _MISSING in said:
        return _MISSING + " " + said.split(f"{_MISSING} ")[1].split()[0].rstrip(".")
    if "NODE_DIED" in said or "NodeDied" in type(error).__name__:
        return "its machine is gone"
    return "it was killed or crashed"
