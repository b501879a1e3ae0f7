"""Runs in processes that can be killed at any moment, forked from one that has imported everything.

`python -m tests.harness.forks` is that one. A fork costs no imports, so that a test can interrupt a
run dozens of times.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lensbench.progress import Progress

ROOT = Path(__file__).parents[2]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
INTERRUPTED = 130


class Ended(NamedTuple):
    """How a run ended: its exit status as the program's, or minus the signal; and its error.

    `peak_bytes`: the most memory that it held, the imports before it included.
    """

    status: int
    said: str
    peak_bytes: int = 0


class Stop(Exception):
    """Raised out of the middle of a run."""


class Forks:
    """Calls functions in processes of their own; `environment` is added to theirs."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "tests.harness.forks"]
        env, pipe = ONE_THREAD | dict(environment or {}), subprocess.PIPE
        self.server = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, cwd=ROOT)

    def run(
        self,
        function: Callable[..., Any],
        *arguments: object,
        kill: signal.Signals | None = None,
        when: Callable[[], bool] = lambda: True,
        largest_file: int = 0,
        seconds: int = 0,
    ) -> Ended:
        """One call, sent `kill` once `when()` holds; no file may outgrow `largest_file` bytes.

        After `seconds`, where there are any, it ends by SIGALRM.
        """
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            said = Path(folder) / "said.txt"
            said.touch()
            said.chmod(0o666)  # whoever the call is made as
            pickle.dump((function, arguments, said, largest_file, seconds), self.server.stdin)
            self.server.stdin.flush()
            child = int(self.server.stdout.readline())
            if kill is not None:
                wait_until(when)
                with contextlib.suppress(ProcessLookupError):  # it was faster
                    os.kill(child, kill)
            status, peak_bytes = map(int, self.server.stdout.readline().split())
            return Ended(status, said.read_text(), peak_bytes)

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.0005)


def parts_done(record: Path) -> float:
    """How many parts of a record are on disk; infinitely many once it is complete."""
    return math.inf if is_complete(record) else len(parts(record))


def parts(record: Path) -> list[Path]:
    """The first table of each part."""
    return sorted(path for path in record.glob("parts/[0-9]*.parquet") if path.stem.isdigit())


def is_complete(record: Path) -> bool:
    path = record / "manifest.json"
    return path.exists() and json.loads(path.read_text())["status"] == "complete"


def interruptions(
    n_done: Callable[[], float], seed: int, times: int, kills: Sequence[signal.Signals]
) -> Iterator[dict[str, Any]]:
    """What `Forks.run` is to be given to interrupt at random moments.

    At the start, after some parts, or a little later than that.
    """
    chance = random.Random(seed)
    for _ in range(times):
        more = n_done() + chance.randrange(6)
        pause = chance.choice([0, 0.003, 0.02, 0.1, 0.5]) * chance.random()

        def moment(more: float = more, pause: float = pause) -> bool:
            return n_done() >= more and time.sleep(pause) is None

        yield {"kill": chance.choice(kills), "when": moment}


class KillAt:
    """A progress callback that kills its own process after so many batches."""

    def __init__(self, n_done: int) -> None:
        self.n_done = n_done

    def __call__(self, now: Progress) -> None:
        if now.total is not None and now.done == self.n_done:
            os.kill(os.getpid(), signal.SIGKILL)


def _serve() -> None:
    _import_everything()
    while True:
        try:
            order = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            try:
                os._exit(_call(*order))
            finally:
                os._exit(99)
        print(child, flush=True)
        _, status, used = os.wait4(child, 0)
        print(os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024, flush=True)


def _call(
    function: Callable[..., Any],
    arguments: tuple[object, ...],
    said: Path,
    largest_file: int,
    seconds: int,
) -> int:
    from lensbench.errors import LensbenchError

    signal.alarm(seconds)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        outcome = function(*arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except LensbenchError as error:
        said.write_text(f"{type(error).__name__}: {error}")
        return 2
    except BaseException:
        said.write_text(traceback.format_exc())
        raise
    said.write_text("\n".join(map(str, getattr(outcome, "failed", {}).values())))
    return 0 if getattr(outcome, "ok", not outcome) else 1


def _import_everything() -> None:
    """By using it: transformers imports half of itself only when a model is loaded."""
    import lensbench.quantized.training.trainer  # noqa: F401
    from lensbench.models.load import load_model
    from lensbench.quantized.generation.generate import Decoding, generate
    from lensbench.quantized.loading.load import load_quantized
    from tests.harness.tiny import TINY, save

    with tempfile.TemporaryDirectory() as name:
        folder = save(TINY["llama"], Path(name) / "llama")
        load_model(folder)
        generate(load_quantized(str(folder), 32, None, "cpu"), [[1, 2, 3]], Decoding(1))


if __name__ == "__main__":
    _serve()
