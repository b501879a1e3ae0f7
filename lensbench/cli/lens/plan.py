"""Say what an analysis will take before it is run: tokens, operations, disk, memory, time.

Nothing is loaded, fetched or written; texts are really tokenised, and this machine's speed is
measured for a second. What is there already costs nothing. Exit status 1 where something stands in
the way: a model that is not here, a disk or a memory that is too small.

Examples:

    lensbench plan analyses/001_when_does_it_know

    lensbench plan analyses/001_when_does_it_know --all --json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from lensbench.cli.console import messages, results, say_json
from lensbench.cli.lens.run import asked
from lensbench.cli.options import Json
from lensbench.cli.planned import show_plan
from lensbench.models.spec import Dtype
from lensbench.spec import Device


def plan(
    analysis: Annotated[Path, Parameter(help="A folder with an analysis.toml.")],
    *,
    out: Annotated[
        Path | None,
        Parameter(("--out", "-o"), help="Run folder. Default: reports/<name of the analysis>."),
    ] = None,
    lens: Annotated[
        tuple[str, ...],
        Parameter(help="Only these of the analysis' lenses; repeatable."),
    ] = (),
    limit: Annotated[
        int | None, Parameter(help="Prompts to ask (pairs to take, in an adapter study).")
    ] = None,
    everything: Annotated[bool, Parameter("--all", help="Ask every prompt.")] = False,
    dtype: Annotated[Dtype, Parameter(help="Default: what the analysis says.")] = None,
    products: Annotated[
        Literal["float32", "bfloat16", "auto"] | None,
        Parameter(help="How the head is multiplied (see `lensbench lens`). Default: its file's."),
    ] = None,
    device: Annotated[
        Device, Parameter(help="cpu, cuda, cuda:1, mps. Default: the first there is.")
    ] = None,
    json: Json = False,
) -> int:
    from lensbench.studies.analysis import plan as planned
    from lensbench.studies.analysis import results_folder

    spec = asked(analysis, lens, limit, everything, dtype, products, device)
    with messages.status("counting tokens"):
        found = planned(spec, out or results_folder(analysis))
    if json:
        say_json(found.as_dict())
    else:
        show_plan(found, results)
    return 0 if found.ok else 1
