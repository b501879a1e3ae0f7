"""Several records, each made whole by one process: trainings, which keep models beside theirs.

Such work is no job of a record, for what comes of it is a folder. It is done once the manifest
there says that the record is complete; whoever takes it up goes on from what the folder holds. Who
makes them is not the records' concern: `done_by` says it, as of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lensbench.errors import InputProblems, MissingExtraError
from lensbench.progress import Notify, Watch, once, within
from lensbench.records.engine import Outcome, who
from lensbench.records.store import RecordStore
from lensbench.spec import Spec

Make = Callable[[Any, Watch, Notify], Outcome]  # of a spec; a function of a module
Made = Callable[[], Outcome]  # raises what making raised


@dataclass(frozen=True)
class Wanted:
    """A record that is wanted, and the spec that it is made of."""

    store: RecordStore
    spec: Spec
    needed_bytes: int = 0  # of memory, beside what the program takes
    device: str = "cpu"

    @property
    def made(self) -> bool:
        """It is complete."""
        there = self.store.manifest()
        return there is not None and there["status"] == "complete"


class Makers(Protocol):
    """Who makes records that lie in the folder `home`: this process, several, a cluster.

    Gives each record once, in any order, with what is called for its outcome.
    """

    def __call__(
        self, make: Make, wanted: Sequence[Wanted], home: Path, watch: Watch, notify: Notify
    ) -> Iterator[tuple[Wanted, Made]]: ...


def in_turn(
    make: Make, wanted: Sequence[Wanted], home: Path, watch: Watch, notify: Notify
) -> Iterator[tuple[Wanted, Made]]:
    """In this process, in their order."""
    for one in wanted:
        yield one, partial(make, one.spec, within(one.store.model, watch), notify)


def make_each(
    make: Make, wanted: Sequence[Wanted], home: Path, watch: Watch, notify: Notify
) -> Outcome:
    """Make records that lie in the folder `home`, or go on with them.

    One that cannot be made is in the outcome, and the others are made. Raises InputProblems and
    MissingExtraError: what is wrong with the input, or is not installed, is so for all.
    """
    outcome, makers = Outcome(), who().makers or in_turn
    for one, made in makers(make, wanted, home, watch, once(notify)):
        with outcome.attempt(one.store):
            found = made().problems
            outcome.problems += [new for new in found if new not in outcome.problems]
        error = outcome.failed.get(one.store.model)
        if isinstance(error, InputProblems | MissingExtraError):
            raise error
    in_order = [one.store.folder for one in wanted]
    outcome.folders.sort(key=in_order.index)
    return outcome
