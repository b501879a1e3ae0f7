"""Norm and effective rank of the update of each module, and the norm of each block.

The norm is Frobenius'; the effective rank is exp(entropy of the singular values' shares), from 1 to
the rank. Blocks are counted from 0. Of an adapter that began with a part of its base's weights
(PiSSA, OLoRA) the update is merged minus base weight, the base --model or what its config names.

Examples:

    lensbench adapters show runs/adapter

    lensbench adapters show runs/adapter --model smollm2-135m --json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import messages, results, say_json, table
from lensbench.cli.options import Json


def show(
    adapter: Annotated[Path, Parameter(help="An adapter's folder.")],
    *,
    model: Annotated[
        str | None, Parameter(help="Its base: then norms are also relative to the weights'.")
    ] = None,
    json: Json = False,
) -> None:
    from lensbench.quantized.adapters.update import base_for, read_updates, totals
    from lensbench.quantized.adapters.update import show as rows_of

    with messages.status("measuring"):
        named = base_for(adapter, model)
        base = named() if named is not None else None
        updates = read_updates(adapter, None if base is None else lambda: base)
        rows = rows_of(updates, base)
    if json:
        say_json(rows)
        return
    if base is None:
        rows = [{key: row[key] for key in row if key != "norm_relative"} for row in rows]
    results.print(table(rows, left=("module",)))
    results.print(table(list(totals(rows))))
