"""Options that several verbs share and no spec has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from lensbench.cluster.spec import WorkersSpec
from lensbench.errors import InputProblems, Problem
from lensbench.models.spec import Dtype
from lensbench.spec import Device

Json = Annotated[bool, Parameter("--json", help="JSON on standard output.")]
Workers = Annotated[WorkersSpec | None, Parameter("*")]  # of a verb that makes a record

# Of the verbs that read an analysis: its file, and what the command line changes in it.
Analysis = Annotated[Path, Parameter(help="A folder with an analysis.toml.")]
RunFolder = Annotated[
    Path | None,
    Parameter(("--out", "-o"), help="Run folder. Default: reports/<name of the analysis>."),
]
OnlyLenses = Annotated[
    tuple[str, ...], Parameter(help="Only these of the analysis' lenses; repeatable.")
]
Limit = Annotated[
    int | None, Parameter(help="Prompts to ask (pairs to take, in an adapter study).")
]
Everything = Annotated[bool, Parameter("--all", help="Ask every prompt.")]
OtherDtype = Annotated[Dtype, Parameter(help="Default: what the analysis says.")]
OtherProducts = Annotated[
    Literal["float32", "bfloat16", "auto"] | None,
    Parameter(help="How the head is multiplied (see `lensbench lens`). Default: its file's."),
]
OtherDevice = Annotated[
    Device, Parameter(help="cpu, cuda, cuda:1, mps, auto, a list. Default: the first there is.")
]


def require_no_workers(workers: WorkersSpec | None, how: str) -> None:
    """Raise InputProblems for workers where there is no record to make: "without --prompts"."""
    given = [] if workers is None else sorted(workers.model_fields_set)
    what = f"it has no effect {how}"
    if given:
        raise InputProblems([Problem(name, what, "Leave it out.") for name in given])
