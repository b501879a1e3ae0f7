"""The one way to make a record: independent jobs, a part of each, and tables of the parts.

Whatever stops a run, the same call goes on with the jobs that have no part yet and ends in the
tables of an undisturbed run. Each kind of record says what its jobs are, what one yields and what
becomes of the parts; all else is here and in `recording`. Who does the jobs is not the record's
concern: `done_by` says it for all that are made inside it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from traceback import clear_frames
from typing import Any, Generic, Protocol, TypeVar

from lensbench.context import holding
from lensbench.errors import InputProblems, LensbenchError, Problem, RecordsError
from lensbench.progress import Progress, Watch, ignore
from lensbench.records.failures import forget_failure
from lensbench.records.parts import Part, Parts
from lensbench.records.read import read_problems
from lensbench.records.recording import Finished, Recording, Request, recording
from lensbench.records.store import RecordStore, disk_error
from lensbench.spec import Spec
from lensbench.threads import threads

Context = TypeVar("Context")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Job(Generic[Item]):
    """A piece of work as a plain value. The same job yields the same part, whoever does it."""

    number: int  # of its part
    item: Item


class Executor(Protocol):
    """Who does the jobs: this process, several, a cluster.

    Sees to it that each job's part is in `parts`, in any order, and then gives the job, once. `do`
    may run in another process: it is a function of a module, and `context` is what it reads from
    (a model), which another process makes again from its name and never from a copy of weights.
    """

    def __call__(
        self,
        do: Callable[[Context, Job[Item]], Part],
        context: Context,
        jobs: Sequence[Job[Item]],
        parts: Parts,
    ) -> Iterator[Job[Item]]: ...


def one_by_one(
    do: Callable[[Context, Job[Item]], Part],
    context: Context,
    jobs: Sequence[Job[Item]],
    parts: Parts,
) -> Iterator[Job[Item]]:
    """The jobs in this process, in their order."""
    for job in jobs:
        parts.write(job.number, do(context, job))
        yield job


def here_until(
    ready: Callable[[], bool],
    do: Callable[[Context, Job[Item]], Part],
    context: Context,
    jobs: deque[Job[Item]],
    parts: Parts,
) -> Iterator[Job[Item]]:
    """Jobs in this process, in their order, until others are ready; the rest stays in `jobs`."""
    while jobs and not ready():
        yield from one_by_one(do, context, [jobs.popleft()], parts)


def with_pauses(pause_s: float) -> Executor:
    """One by one, with so many seconds between two jobs."""

    def execute(
        do: Callable[[Context, Job[Item]], Part],
        context: Context,
        jobs: Sequence[Job[Item]],
        parts: Parts,
    ) -> Iterator[Job[Item]]:
        for i, done in enumerate(one_by_one(do, context, jobs, parts), start=1):
            yield done
            if i < len(jobs):
                time.sleep(pause_s)

    return execute


def _nothing() -> None:
    """This process is ready for jobs."""


Makers = Callable[..., Iterator[tuple[Any, Callable[[], "Outcome"]]]]  # as `several` says of them


@dataclass(frozen=True)
class Who:
    """Who does the jobs of records, and makes records whole: as `done_by` was told."""

    execute: Executor = one_by_one
    threads: int | None = None
    expect: Callable[[], object] = _nothing
    makers: Makers | None = None  # of whole records; None: this process


_who: ContextVar[Who] = ContextVar("who", default=Who())  # noqa: B039  it is frozen


def done_by(
    execute: Executor,
    threads: int | None = None,
    expect: Callable[[], object] = _nothing,
    makers: Makers | None = None,
) -> AbstractContextManager[object]:
    """Inside, the jobs of every record are done by these, with so many threads each.

    `expect` is called before a record with something left to do is loaded and planned: time to
    make ready in. A finished one calls nobody. `makers` make whole records, each the work of one
    of them (`cluster/several.py`); None: this process.

    How many threads share a sum decides its last digits, so a record keeps to the number that it
    was begun with, whoever goes on with it; None is that, or this process' own for a new one.
    """
    return holding(_who, Who(execute, threads, expect, makers))


def who() -> Who:
    """Who does what is to be done, here and now."""
    return _who.get()


def summing(record: Recording) -> AbstractContextManager[None]:
    """Inside, sums are made with the threads of the record. Raises RecordsError as `threads`."""
    return threads(record.threads(who().threads))


def require_here(spec: Spec) -> None:
    """Raise InputProblems, before anything is begun, for what workers are to do and cannot share.

    Of a run that begins with other records than the one whose jobs are not theirs.
    """
    if who().execute is not one_by_one:
        spec.require_shareable()


@dataclass(frozen=True)
class Work(Generic[Context, Item]):
    """What is to be done, once everything is loaded.

    `items`: for each width of the record the jobs that it adds; the job's number is its place in
    all of them. Who plans them anew gets the same ones.
    """

    context: Context
    do: Callable[[Context, Job[Item]], Part]
    items: Sequence[Sequence[Item]]
    finish: Callable[[Parts], Finished]
    unit: str = "batches"
    size: Callable[[Item], int] = lambda _: 1  # of an item, in units
    seen: Callable[[Part], str] | None = None  # a part is on disk: what to say of it meanwhile


@dataclass
class Outcome:
    """What became of a run: its record folders, models that failed and why, what was skipped."""

    folders: list[Path] = field(default_factory=list)
    failed: dict[str, LensbenchError] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Everything was measured."""
        return not self.failed and not self.problems

    @property
    def folder(self) -> Path:
        """The record, of a run that makes one."""
        (folder,) = self.folders
        return folder

    @contextmanager
    def attempt(self, store: RecordStore) -> Iterator[None]:
        """Make one of several records inside: its folder, or why it failed; others can go on."""
        try:
            yield
        except LensbenchError as error:
            _let_go(error)
            self.failed[store.model] = error
        except OSError as error:
            self.failed[store.model] = disk_error(store.folder, error)
        else:
            self.folders.append(store.folder)
            forget_failure(store.folder.parent, store.model)


def _let_go(error: BaseException | None) -> None:
    """Keep of an error what it says, and not what was at hand where it came up: a whole model."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def make(
    request: Request,
    prepare: Callable[[Recording], Work[Any, Any]],
    watch: Watch = ignore,
    execute: Executor | None = None,
) -> list[Problem]:
    """Make a record, go on with it, widen it, or leave a finished one alone.

    `prepare` loads what is needed, calls `begin` and says what there is to do; it is called only
    if something is left. `execute` does the jobs; None: whoever `done_by` says, else this process.
    Returns what was skipped.

    Raises what `prepare` and the jobs raise, and RecordsError as `recording` does.
    """
    chosen = who()
    if execute is not None and chosen.execute is not one_by_one:
        what = "pauses are between jobs that are done one by one, and workers were asked for too"
        raise InputProblems([Problem("pause_s", what, "Leave out one of them.")])
    with recording(request) as record:
        if not record.finished:
            with summing(record):
                chosen.expect()
                work = prepare(record)
                resumed = _do_jobs(record, work, watch, execute or chosen.execute)
                record.finish(work.finish(record.parts), resumed_batches=resumed)
        return read_problems(request.store.folder)


def _do_jobs(record: Recording, work: Work[Any, Any], watch: Watch, execute: Executor) -> int:
    """See to it that every job's part is there. Returns how many there were before."""
    jobs = [Job(number, item) for number, item in enumerate(chain(*work.items))]
    first = sum(map(len, work.items[: record.n_measured]))
    parts, name = record.parts, record.store.model
    left = [job for job in jobs[first:] if not parts.has(job.number)]
    total = sum(work.size(job.item) for job in jobs)
    done = total - sum(work.size(job.item) for job in left)
    watch(Progress(name, done, total, work.unit))
    for job in execute(work.do, work.context, left, parts):
        record.note_time()
        done += work.size(job.item)
        told = "" if work.seen is None else work.seen(parts.part(job.number))
        watch(Progress(name, done, total, work.unit, told))
    if parts.numbers != [job.number for job in jobs[first:]]:
        raise RecordsError(
            f"{parts.folder} holds parts of other jobs than this run's, made by another version of "
            f"lensbench. Delete {record.store.folder} and run the same command again."
        )
    return len(jobs) - len(left)
