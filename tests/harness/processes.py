"""A process as a user starts it at a terminal: its seconds, its words, its memory, its reads."""

from __future__ import annotations

import itertools
import json
import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SHOWN = 2000  # characters of what a failed one said
# A program begins its life as a copy of whoever starts it, and the kernel's mark of its peak starts
# there: under a parent that holds a model it would be the parent's. So a small one starts it.
_STARTER = """
import json, os, sys
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
with open(f"/proc/{pid}/io") as lines:
    read = dict(line.split(": ") for line in lines)["rchar"]
_, status, used = os.wait4(pid, 0)
found = {"status": os.waitstatus_to_exitcode(status), "peak": used.ru_maxrss * 1024}
with open(sys.argv[1], "w") as file:
    json.dump(found | {"read": int(read)}, file)
"""


@dataclass(frozen=True)
class Run:
    """One process: seconds to its end and first word, its longest silence; its bytes.

    The peak is the kernel's count, mapped files included. What was read is what it asked for by
    calls, whether it came from a disk or from memory; pages of mapped files are not among it.
    """

    seconds: float
    first: float
    silent: float
    peak_bytes: int
    read_bytes: int


def run(words: Sequence[object], env: Mapping[str, str], cwd: Path | None = None) -> Run:
    """A process to its end. Raises RuntimeError, with what it said, where it failed.

    A plain script says nothing before its first number; what libraries draw counts as a word.
    """
    with tempfile.NamedTemporaryFile() as told:
        starter = [sys.executable, "-IS", "-c", _STARTER, told.name, *map(str, words)]
        terminal, end = pty.openpty()
        started = time.perf_counter()
        process = subprocess.Popen(starter, env=env, stdin=end, stdout=end, stderr=end, cwd=cwd)
        os.close(end)
        said, times = b"", [started]
        with suppress(OSError):  # the terminal's last reader is gone
            while chunk := os.read(terminal, 1 << 16):
                times.append(time.perf_counter())
                said = (said + chunk)[-_SHOWN:]
        os.close(terminal)
        process.wait()
        times.append(time.perf_counter())
        found = json.loads(Path(told.name).read_text() or '{"status": "was never started"}')
    if found["status"] != 0:
        what = f"{' '.join(map(str, words))}: {found['status']}"
        raise RuntimeError(f"{what}\n{said.decode(errors='replace')}")
    gaps = [later - one for one, later in itertools.pairwise(times)]
    return Run(times[-1] - started, gaps[0], max(gaps), found["peak"], found["read"])
