"""Several models in turn: one in memory, and meanwhile the files of the next are read, or fetched.

What is done ahead takes no memory that a model needs. Files are read a megabyte at a time, which
gives their hashes and leaves them in what the system has free; where the next one does not fit
beside the present one it is read in its own turn. A download goes to the disk. A model that is
converted from packages is in memory for that, so it waits for its turn too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from itertools import zip_longest
from pathlib import Path
from threading import Thread

import psutil  # type: ignore[import-untyped]

from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.pull import pull
from lensbench.checkpoints.ref import ModelRef, readable_refs
from lensbench.checkpoints.stored.heap import release
from lensbench.context import holding
from lensbench.errors import LensbenchError, first_line
from lensbench.progress import Notify, ignore
from lensbench.quantized.generation.batching import out_of_memory_as
from lensbench.records.engine import Outcome
from lensbench.records.store import RecordStore

_WIDENED = 2  # times its files' bytes a model may take in memory: float32 of 16 bits

_asked_for: ContextVar[bool] = ContextVar("fetch", default=False)


def fetching(asked: bool) -> AbstractContextManager[bool]:
    """Inside, models that are not on this machine are fetched, if that was asked for."""
    return holding(_asked_for, asked)


def in_turn(models: Sequence[str], outcome: Outcome, notify: Notify = ignore) -> list[ModelRef]:
    """The models of a run, which goes on without those that cannot be had.

    They are told at once, and not after hours of the others: names that lead nowhere, which are
    failures in the outcome, and models that are not on this machine or not whole, which have their
    turn all the same: they may be by then.

    Raises InputProblems as `readable_refs`.
    """
    refs, outcome.failed = readable_refs(models)
    missing: dict[str, LensbenchError] = dict(outcome.failed)
    for ref in [] if _asked_for.get() else refs:
        try:
            ref.located.require_folder()
        except LensbenchError as error:
            missing[str(ref)] = error
    if len(missing) < len(models):
        for name, why in missing.items():
            notify(f"{name} cannot be measured, the others are: {why}")
    return refs


class Turns:
    """Models one after the other, by `for ref in turns` and, inside, `with turns.attempt(...)`.

    Args:
        outcome: is told of a model that was to be fetched and could not be; it has no turn.
        let_go: called after each turn, for whoever keeps the model that it loaded.
        notify: told what is fetched.
    """

    def __init__(
        self,
        refs: Sequence[ModelRef],
        outcome: Outcome,
        let_go: Callable[[], None] = lambda: None,
        notify: Notify = ignore,
    ) -> None:
        self._refs, self._outcome, self._let_go, self._notify = refs, outcome, let_go, notify

    def __iter__(self) -> Iterator[ModelRef]:
        coming: Thread | None = None
        for ref, following in zip_longest(self._refs, self._refs[1:]):
            if coming is not None:
                coming.join()
            if self._arrives(ref):
                if following is not None:
                    given = following, ref, _asked_for.get()
                    coming = Thread(target=_come, args=given, daemon=True)  # ends with the process
                    coming.start()
                yield ref
                self._let_go()
                release()

    def _arrives(self, ref: ModelRef) -> bool:
        """Whether the model is here, or fetching it was not asked for."""
        try:
            if _asked_for.get():
                _fetch(ref, self._notify)
        except LensbenchError as error:
            self._outcome.failed[str(ref)] = error
            return False
        return True

    @contextmanager
    def attempt(self, store: RecordStore) -> Iterator[None]:
        """One model's record, as `Outcome.attempt` has it.

        A model that runs out of memory is one that failed: the others can go on.
        """
        with (
            self._outcome.attempt(store),
            out_of_memory_as(
                lambda error: (
                    f"{store.model} ran out of memory ({first_line(error)}). What was "
                    "measured is kept: run it again on a larger device, with --dtype bfloat16 or "
                    "as NAME@8."
                )
            ),
        ):
            yield


def _come(ref: ModelRef, present: ModelRef, fetch: bool) -> None:
    """What of the next model can be done while the present one computes.

    It is fetched, unless it is to be converted; and its files are read, for their hashes. Whatever
    goes wrong is met again in its turn, and said then.
    """
    with suppress(LensbenchError, OSError):
        if fetch and ref.located.hub_name is not None:
            _fetch(ref, ignore)
        folder = ref.located.folder
        if folder is not None and fits_beside(folder, present.located.folder):
            hashes(folder)


def fits_beside(folder: Path, present: Path | None) -> bool:
    """Whether the system can keep the next model's files while the present one is in memory."""
    taken = _WIDENED * _size(present) if present else 0
    return bool(_size(folder) + taken <= psutil.virtual_memory().available)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.*") if path.is_file())


def _fetch(ref: ModelRef, notify: Notify) -> None:
    """Fetch what is not here, or not whole. Raises ModelError where it cannot be."""
    try:
        ref.located.require_folder()
    except LensbenchError:
        pull(ref.name, notify)
