"""Runs that are killed, starved of disk and crowded: what is left is as if nothing had been."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.errors import LensbenchError
from tests.benchmarks.faults.work import Work
from tests.harness.forks import Forks

_KILLS_A_RUN = 8  # then it is left to finish
_SMALLEST = 4096  # bytes of a file: a run must have room to say what is wrong
TRACEBACK = 99  # how a fork ends that raised what is no error of lensbench


@dataclass
class Tally:
    """How often something was done to a kind of run, and what became of it."""

    what: str
    times: int = 0
    runs: int = 0
    differing: int = 0  # finished runs whose files are not those of an undisturbed one
    tracebacks: int = 0


class Disturber:
    """Disturbs one kind of run, in processes of their own."""

    def __init__(self, work: Work, forks: Forks, room: Path, seed: int) -> None:
        self.work, self.forks, self.room = work, forks, room / work.name.replace(" ", "-")
        self.chance = random.Random(seed)
        start = time.monotonic()
        assert self._run(self._folder("undisturbed")).status == 0
        self.wall_s = time.monotonic() - start
        self.undisturbed = work.left(self.room / "undisturbed")

    def kills(self, times: int) -> Tally:
        """SIGKILL at moments drawn evenly from the time that an undisturbed run takes."""
        tally = Tally(f"{self.work.name}: SIGKILL")
        while tally.times < times:
            out = self._folder("killed")
            for _ in range(min(_KILLS_A_RUN, times - tally.times)):
                pause_s = self.chance.random() * self.wall_s

                def moment(pause_s: float = pause_s) -> bool:
                    return time.sleep(pause_s) is None

                ended = self._run(out, kill=signal.SIGKILL, when=moment)
                tally.times += 1
                tally.tracebacks += ended.status == TRACEBACK
            self._finish(tally, out)
        return tally

    def full_disks(self, times: int) -> Tally:
        """No file may outgrow a size, drawn evenly in its logarithm up to the largest one."""
        tally = Tally(f"{self.work.name}: disk full")
        largest = max(map(len, self.undisturbed.values()))
        for _ in range(times):
            out = self._folder("full")
            size = max(int(largest ** self.chance.random()), _SMALLEST)
            ended = self._run(out, largest_file=size)
            tally.times += 1
            tally.tracebacks += ended.status == TRACEBACK
            self._finish(tally, out)
        return tally

    def crowds(self, sizes: tuple[int, ...]) -> Tally:
        """Several processes on one folder at once: whoever is late is refused."""
        tally = Tally(f"{self.work.name}: {' and '.join(map(str, sizes))} processes at once")
        for size in sizes:
            out = self._folder("crowd")
            ended = self.forks.run(crowd, size, *self.work.call(out))
            tally.times += size
            tally.tracebacks += ended.status != 0
            self._finish(tally, out)
        return tally

    def _finish(self, tally: Tally, out: Path) -> None:
        tally.tracebacks += self._run(out).status == TRACEBACK
        tally.runs += 1
        tally.differing += self.work.left(out) != self.undisturbed

    def _folder(self, name: str) -> Path:
        shutil.rmtree(self.room / name, ignore_errors=True)
        (self.room / name).mkdir(parents=True)
        return self.room / name

    def _run(self, out: Path, **how: Any) -> Any:
        return self.forks.run(*self.work.call(out), **how)


def crowd(size: int, function: Callable[..., Any], *arguments: Any) -> list[int]:
    """The same call in `size` processes; the exit statuses that are neither done nor refused."""
    children = []
    for _ in range(size):
        child = os.fork()
        if child == 0:
            try:
                function(*arguments)
            except LensbenchError:
                os._exit(2)
            except BaseException:  # noqa: BLE001  counted, whatever it is
                os._exit(TRACEBACK)
            os._exit(0)
        children.append(child)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [status for status in ends if status not in (0, 2)]
