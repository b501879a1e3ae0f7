"""The difference of two adapters in each module: its norm, and the cosine of the updates.

A module that one of them lacks counts as an update of zeros there.

Examples:

    lensbench adapters diff runs/adapter runs/other

    lensbench adapters diff runs/adapter runs/other --json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import messages, results, say_json, table
from lensbench.cli.options import Json


def diff(
    adapter: Annotated[Path, Parameter(help="An adapter's folder.")],
    other: Annotated[Path, Parameter(help="Another adapter's folder.")],
    *,
    model: Annotated[
        str | None, Parameter(help="Their base, for adapters that began with a part of it.")
    ] = None,
    json: Json = False,
) -> None:
    from lensbench.quantized.adapters.update import base_for, read_updates
    from lensbench.quantized.adapters.update import diff as rows_of

    with messages.status("measuring"):
        one, two = (read_updates(path, base_for(path, model)) for path in (adapter, other))
        rows = rows_of(one, two)
    if json:
        say_json(rows)
    else:
        results.print(table(rows, left=("module", "in")))
