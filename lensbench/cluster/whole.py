"""Whole records by workers: each makes one after another, in folders that it has to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.cluster.assignment import require_seen
from lensbench.cluster.folders.home import Home, proven
from lensbench.cluster.several import Made, Make, Makers, Wanted, in_turn
from lensbench.cluster.spec import WorkersSpec
from lensbench.cluster.worker import Reply
from lensbench.errors import InputProblems, Problem
from lensbench.progress import Notify, Watch, within
from lensbench.records.engine import Job, Outcome
from lensbench.records.store import disk_error
from lensbench.threads import threads

if TYPE_CHECKING:
    from lensbench.cluster.crew import Crew


def makers_of(crew: Callable[[], Future[Crew]], spec: WorkersSpec) -> Makers:
    """`crew` gives the workers, which may still be starting. This process makes none meanwhile.

    What is complete already is looked at here, and calls nobody; nor does one that is left alone,
    unless it can go to another machine.
    """

    def makers(
        make: Make, wanted: Sequence[Wanted], home: Path, watch: Watch, notify: Notify
    ) -> Iterator[tuple[Wanted, Made]]:
        left = [one for one in wanted if not one.made]
        yield from in_turn(make, [one for one in wanted if one.made], home, watch, notify)
        if left:
            _require_no_shared(spec)
        if not left or (len(left) == 1 and spec.ray is None):
            yield from in_turn(make, left, home, watch, notify)
            return
        begun = crew()
        with threads(spec.threads), _proven(home) as there:
            records = WholeRecords(there, left, watch, notify)
            needed = max(one.needed_bytes for one in left)
            with begun.result().shift(
                make, spec.threads, records, len(left), needed, left[0].device
            ) as shift:
                for job in shift.done([Job(n, one.spec) for n, one in enumerate(left)]):
                    one = left[job.number]
                    # One that a worker completed before it could say so is looked at here.
                    here = partial(make, one.spec, within(one.store.model, watch), notify)
                    yield one, records.made.get(job.number, here)

    return makers


def _require_no_shared(spec: WorkersSpec) -> None:
    if spec.shared_folder is not None:
        what = "a training writes more than parts, in its own folder, which workers have to see"
        raise InputProblems([Problem("shared_folder", what, "Leave it out.")])


def _proven(home: Path) -> AbstractContextManager[Home]:
    """The folder as the records' own paths name it: where it is relative, so it is to workers."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(home, error) from error
    return proven(home, str(home))


class WholeRecords:
    """An assignment: a worker makes a record, and tells on the way how far it is."""

    most, in_sight = 1, True

    def __init__(self, home: Home, wanted: Sequence[Wanted], watch: Watch, notify: Notify) -> None:
        self.home, self._wanted, self._notify = home, wanted, notify
        self._watches = [within(one.store.model, watch) for one in wanted]
        self.made: dict[int, Made] = {}

    def ask(self, actor: Any, job: Job[Any]) -> Any:
        return actor.make.options(num_returns="streaming").remote(job)

    def has(self, job: Job[Any]) -> bool:
        return self._wanted[job.number].made

    def take(self, job: Job[Any], reply: Reply) -> bool:
        for text in reply.said:
            self._notify(text)
        for now in reply.progress:
            self._watches[job.number](now)
        if reply.error is None and reply.outcome is None:
            return False
        if reply.error is None:
            folder = self._wanted[job.number].store.folder
            require_seen(lambda: self.has(job), f"{folder}: a worker has completed it")
        self.made[job.number] = partial(_outcome, reply)
        return True


def _outcome(reply: Reply) -> Outcome:
    if reply.error is not None:
        raise reply.error
    assert reply.outcome is not None
    return reply.outcome
