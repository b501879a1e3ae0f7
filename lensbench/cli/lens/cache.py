"""Keep the residual stream of a prompt set on disk.

Interrupt it and run it again: it goes on. The size is said before anything is written, and refused
when the disk cannot hold it. What is kept can be read a layer at a time (`open_cache` in Python),
by `lensbench lens MODEL --cache` and by `lensbench correlate`. A prompt that gives NaN is reported
and the rest goes on (exit status 1); so is a shard that --check finds missing, truncated or
altered.

Examples:

    lensbench cache smollm2-135m --prompts facts --limit 60 -o runs/cache

    lensbench cache smollm2-135m@8 --layers 0,15-20 --residual-dtype bfloat16 \
        -o runs/c8

    lensbench cache --check runs/cache
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import (
    batch_progress,
    failure,
    interruptible,
    messages,
    note,
    say,
    show_problems,
)
from lensbench.cli.options import Workers
from lensbench.errors import InputProblems, Problem
from lensbench.studies.specs.cache import CacheSpec


def cache(
    spec: Annotated[CacheSpec | None, Parameter("*")] = None,
    *,
    out: Annotated[Path | None, Parameter(("--out", "-o"), help="The cache's folder.")] = None,
    mid: Annotated[bool, Parameter(help="Also after attention in each block.")] = False,
    check: Annotated[
        Path | None,
        Parameter(help="Instead: say what a cache holds, and check every shard."),
    ] = None,
    workers: Workers = None,
) -> int:
    if check is not None:
        if spec is not None or out is not None or workers is not None:
            what = "it takes a cache's folder and nothing else"
            raise InputProblems([Problem("--check", what, "Leave out the rest.")])
        return _check(check)
    if spec is None or out is None:
        what = "give a model and a folder"
        raise InputProblems([Problem("cache", what, "Such as: lensbench cache MODEL -o DIR.")])
    from lensbench.studies.stages.cache import run_cache

    if mid:
        spec = spec.changed(sites=("embed", "resid_mid", "resid_post"))
    with batch_progress(workers) as progress:
        problems = run_cache(spec, out, progress, note)
    show_problems(problems, out / "problems.parquet")
    say(out)
    return 1 if problems else 0


def _check(folder: Path) -> int:
    """Show a cache's facts and read every tensor once; 1 if a shard is damaged."""
    from lensbench.residuals.store import open_cache

    opened = open_cache(folder)
    say(repr(opened))
    for line in opened.facts():
        say(line)
    with interruptible(), messages.status("reading every shard"):
        wrong = [what for _, what in opened.files.verify() if what is not None]
    for what in wrong:
        failure(what)
    if wrong:
        return 1
    say("every shard is whole")
    return 0
