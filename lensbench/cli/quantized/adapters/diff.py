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

from lensbench.cli.console import results, say_json, table
from lensbench.cli.options import Json


def diff(
    adapter: Annotated[Path, Parameter(help="An adapter's folder.")],
    other: Annotated[Path, Parameter(help="Another adapter's folder.")],
    *,
    json: Json = False,
) -> None:
    from lensbench.quantized.adapters.update import diff as rows_of
    from lensbench.quantized.adapters.update import read_updates

    rows = rows_of(read_updates(adapter), read_updates(other))
    if json:
        say_json(rows)
    else:
        results.print(table(rows, left=("module", "in")))
