"""Say what an analysis will take before it is run: tokens, operations, disk, memory, time.

Nothing is loaded, fetched or written; texts are really tokenised, and this machine's speed is
measured for a second. What is there already costs nothing. Exit status 1 where something stands in
the way: a model that is not here, a disk or a memory that is too small.

Examples:

    lensbench plan analyses/001_when_does_it_know

    lensbench plan analyses/001_when_does_it_know --all --json
"""

from __future__ import annotations

from lensbench.cli.console import messages, results, say_json
from lensbench.cli.lens.run import asked
from lensbench.cli.options import (
    Analysis,
    Everything,
    Json,
    Limit,
    OnlyLenses,
    OtherDevice,
    OtherDtype,
    OtherProducts,
    RunFolder,
)
from lensbench.cli.planned import show_plan


def plan(
    analysis: Analysis,
    *,
    out: RunFolder = None,
    lens: OnlyLenses = (),
    limit: Limit = None,
    everything: Everything = False,
    dtype: OtherDtype = None,
    products: OtherProducts = None,
    device: OtherDevice = None,
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
