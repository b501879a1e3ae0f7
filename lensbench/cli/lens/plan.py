"""Say what an analysis will take before it is run: tokens, operations, disk, memory, time.

Nothing is loaded, fetched or written; texts are really tokenised, and this machine's speed is
measured for a second. What is there already costs nothing. Exit status 1 where something stands in
the way: a model that is not here, a disk or a memory that is too small.

Examples:

    lensbench plan analyses/001_when_does_it_know

    lensbench plan analyses/001_when_does_it_know --all --json

    lensbench plan analyses/001_when_does_it_know --workers 2
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import messages, results, say_json
from lensbench.cli.lens.asked import Asked
from lensbench.cli.options import Json
from lensbench.cli.planned import show_plan
from lensbench.spec import Count
from lensbench.threads import threads as summing_with


class Planned(Asked):
    """An analysis, and who runs it with how many threads."""

    threads: Count | None = None
    """Threads to a sum, as `run` will have. Default: torch's."""
    workers: Count | None = None
    """Processes that will do the jobs, as `run` will have. Default: this one alone."""


def plan(asked: Annotated[Planned, Parameter("*")], *, json: Json = False) -> int:
    import torch  # noqa: F401  (threads are those that torch sums with)

    from lensbench.studies.analysis import plan as planned

    spec = asked.read()
    with messages.status("counting tokens"), summing_with(asked.threads):
        found = planned(spec, asked.folder, workers=asked.workers)
    if json:
        say_json(found.as_dict())
    else:
        show_plan(found, results)
    return 0 if found.ok else 1
