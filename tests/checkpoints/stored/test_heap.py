"""What is freed goes back to the system, every so many bytes that are read."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from lensbench.checkpoints.stored import heap
from lensbench.checkpoints.stored.heap import Heap, give_back

_RESIDENT = """
import re
from pathlib import Path
from lensbench.checkpoints.stored.heap import give_back
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
blocks = [b"x" * 60_000 + bytes([i % 256]) for i in range(4000)]  # 240 MB
filled = resident()
last = blocks.pop()
blocks.clear()
freed = resident()
give_back()
print(filled, freed, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_lies_beneath_something_used_is_given_back() -> None:
    command = [sys.executable, "-c", _RESIDENT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    filled, freed, given = map(int, done.stdout.split())
    assert freed > filled - 20  # glibc keeps it: otherwise there is nothing to do
    assert given < filled - 200


def test_calling_it_twice_does_no_harm() -> None:
    give_back()
    give_back()


def test_it_is_given_back_some_times_however_much_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[int] = []
    monkeypatch.setattr(heap, "give_back", lambda: times.append(1))
    for total, expected in ((10 << 20, 0), (640 << 20, 9), (16 << 30, 64), (140 << 30, 64)):
        times.clear()
        one = Heap(total)
        for _ in range(1024):
            one.read(total // 1024)
        assert len(times) == expected
