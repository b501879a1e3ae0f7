"""A clock that jumps: a library, loaded before all others, that says other times than it is."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

YEAR_S = 365 * 86_400
# Each look at the clock of the wall is moved by up to ten years to and fro, and differs from the
# one before; clocks that only go on are left alone, as the system leaves them.
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <time.h>

static atomic_ulong looks = 1;

static long jump(void) {
    unsigned long x = atomic_fetch_add(&looks, 1) * 6364136223846793005UL + 1442695040888963407UL;
    return (long)((x >> 33) % (20UL * YEAR_S)) - 10L * YEAR_S;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += jump();
    return status;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    int status = clock_gettime(CLOCK_REALTIME, &exact);
    if (now) { now->tv_sec = exact.tv_sec; now->tv_usec = exact.tv_nsec / 1000; }
    return status;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


def jumping_clock(folder: Path) -> dict[str, str] | None:
    """The environment of a process whose clock jumps; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(_SOURCE.replace("YEAR_S", str(YEAR_S)))
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return {"LD_PRELOAD": str(library)}


def jumping_files(folder: Path, chance: random.Random) -> None:
    """Every file was written at another time, up to ten years before or after now."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            moved = path.stat().st_mtime + chance.uniform(-10, 10) * YEAR_S
            os.utime(path, (moved, moved))
