"""Other ways to do the jobs of a record than one by one, in their order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from lensbench.records.engine import Job, one_by_one
from lensbench.records.parts import Part

Done = Iterator[tuple[Job[Any], Part]]


def backwards(do: Any, context: Any, jobs: Sequence[Job[Any]]) -> Done:
    yield from one_by_one(do, context, list(reversed(jobs)))


def in_threads(do: Any, context: Any, jobs: Sequence[Job[Any]]) -> Done:
    """Two at a time, in the order in which they are done."""
    with ThreadPoolExecutor(2) as pool:
        futures = {pool.submit(do, context, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


_context: Any = None


def in_processes(do: Any, context: Any, jobs: Sequence[Job[Any]]) -> Done:
    """Two forked processes, which have the context; jobs and parts are sent as plain values."""
    global _context
    _context = context
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = [(job, pool.apply_async(_do, (do, job))) for job in jobs]
        for job, result in reversed(results):
            yield job, result.get()


def _do(do: Any, job: Job[Any]) -> Part:
    part: Part = do(_context, job)
    return part


EXECUTORS = [backwards, in_threads, in_processes]
