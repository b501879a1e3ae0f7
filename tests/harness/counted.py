"""A record without a model, of jobs that workers can do: each word's length, and what goes wrong.

A word says what its job does: `slow` takes a while, `fatal` ends its process, `wrong` raises, and
`memory` as an allocator does.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lensbench.errors import GateError, Problem
from lensbench.progress import Watch, ignore
from lensbench.records.engine import Job, Work, make
from lensbench.records.parts import Part, Parts
from lensbench.records.recording import Finished, Recording, Request
from lensbench.records.schema.adapters import PLACEMENT
from lensbench.records.store import RecordStore

MODEL = {"name": "counted", "weights_sha256": "0" * 64}


def count(context: Any, job: Job[str]) -> Part:
    """A row, a problem for a word that is bad, a file, and who did it."""
    word = job.item
    if word.startswith("slow"):
        time.sleep(0.3)
    if word.startswith("fatal"):
        os.kill(os.getpid(), signal.SIGKILL)
    if word.startswith("wrong"):
        raise GateError(f"{word} is no word")
    if word.startswith("memory"):
        raise MemoryError(f"{word} takes too much")
    same = {"model": "counted", "placement": "base", "blocks": [], "reference_nll_bits": 1.0}
    row = same | {"prompt_id": word, "n_reference_tokens": len(word)}
    table = pa.Table.from_pylist([row], schema=PLACEMENT.schema)
    bad = [Problem("words", f"{word} is bad", "Mend it.", word)] if word.startswith("bad") else []
    files = {f"residuals/{job.number:06d}.safetensors": word.encode() * 100}
    return Part({"placement": table}, bad, {"process": os.getpid()}, files)


def count_words(
    folder: Path,
    words: Sequence[str],
    context: Any = "words",
    seen: list[int] | None = None,
    watch: Watch = ignore,
) -> list[Problem]:
    """The record of some words in `folder`; `seen` gets the processes of the jobs."""

    def prepare(record: Recording) -> Work[Any, str]:
        record.begin(MODEL)

        def finish(parts: Parts) -> Finished:
            if seen is not None:
                seen.extend(note["process"] for note in parts.notes)
            return Finished(parts.problems)

        return Work(context, count, [list(words)], finish, unit="words")

    request = Request(RecordStore(folder, "counted", "placement"), {"words": len(words)}, MODEL)
    return make(request, prepare, watch)
