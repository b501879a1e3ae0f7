"""Options that several verbs share and no spec has."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cluster.spec import WorkersSpec
from lensbench.errors import InputProblems, Problem

Json = Annotated[bool, Parameter("--json", help="JSON on standard output.")]
Workers = Annotated[WorkersSpec | None, Parameter("*")]  # of a verb that makes a record


def require_no_workers(workers: WorkersSpec | None, how: str) -> None:
    """Raise InputProblems for workers where there is no record to make: "without --prompts"."""
    given = [] if workers is None else sorted(workers.model_fields_set)
    what = f"it has no effect {how}"
    if given:
        raise InputProblems([Problem(name, what, "Leave it out.") for name in given])
