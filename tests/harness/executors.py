"""Other ways to do the jobs of a record than one by one, in their order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from lensbench.records.engine import Job, one_by_one
from lensbench.records.parts import Parts

Done = Iterator[Job[Any]]


def backwards(do: Any, context: Any, jobs: Sequence[Job[Any]], parts: Parts) -> Done:
    yield from one_by_one(do, context, list(reversed(jobs)), parts)


def in_threads(do: Any, context: Any, jobs: Sequence[Job[Any]], parts: Parts) -> Done:
    """Two at a time, in the order in which they are done."""
    with ThreadPoolExecutor(2) as pool:
        futures = {pool.submit(do, context, job): job for job in jobs}
        for future in as_completed(futures):
            parts.write(futures[future].number, future.result())
            yield futures[future]


_context: Any = None


def in_processes(do: Any, context: Any, jobs: Sequence[Job[Any]], parts: Parts) -> Done:
    """Two forked processes, which have the context and write the parts themselves."""
    global _context
    _context = context
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = [(job, pool.apply_async(_do, (do, job, parts))) for job in jobs]
        for job, result in reversed(results):
            result.get()
            yield job


def _do(do: Any, job: Job[Any], parts: Parts) -> None:
    parts.write(job.number, do(_context, job))


EXECUTORS = [backwards, in_threads, in_processes]
