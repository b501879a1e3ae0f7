"""`lensbench adapters`: what an adapter changes, how two differ, and merging one into its base."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

adapters = typer.Typer(no_args_is_help=True, help="Adapters: show, diff, merge.")

Folder = Annotated[Path, typer.Argument(help="An adapter's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Rows as JSON on standard output.")]


@adapters.command()
def show(
    adapter: Folder,
    model: Annotated[
        str | None, typer.Option(help="Its base: then norms are also relative to the weights'.")
    ] = None,
    json: Json = False,
) -> None:
    """Norm and effective rank of the update of each module, and the norm of each block.

    The norm is Frobenius'; the effective rank is exp(entropy of the singular values' shares), from
    1 to the rank. Blocks are counted from 0.

    Examples:

        lensbench adapters show runs/adapter

        lensbench adapters show runs/adapter --model smollm2-135m --json
    """
    from lensbench.cli.console import messages, results
    from lensbench.quantized.adapters.update import base_of, read_updates, totals
    from lensbench.quantized.adapters.update import show as rows_of

    updates = read_updates(adapter)
    with messages.status("measuring"):
        base = base_of(model, adapter, list(updates.values())) if model is not None else None
        rows = rows_of(updates, base)
    if json:
        _json(rows)
        return
    hidden = () if model is not None else ("norm_relative",)
    results.print(_table(rows, hidden))
    results.print(_table(list(totals(rows))))


@adapters.command()
def diff(
    first: Folder,
    second: Annotated[Path, typer.Argument(help="Another adapter's folder.")],
    json: Json = False,
) -> None:
    """The difference of two adapters in each module: its norm, and the cosine of the updates.

    A module that one of them lacks counts as an update of zeros there.

    Examples:

        lensbench adapters diff runs/adapter runs/other

        lensbench adapters diff runs/adapter runs/other --json
    """
    from lensbench.cli.console import results
    from lensbench.quantized.adapters.update import diff as rows_of
    from lensbench.quantized.adapters.update import read_updates

    rows = rows_of(read_updates(first), read_updates(second))
    if json:
        _json(rows)
    else:
        results.print(_table(rows))


@adapters.command()
def merge(
    model: Annotated[str, typer.Argument(help="The adapter's base: alias, hub name or folder.")],
    adapter: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the merged model.")],
) -> None:
    """Add an adapter into the weights of its base, and save a model that needs no adapter.

    The saved model is loaded again and must give the logits of base and adapter, in float32;
    otherwise nothing is kept. `lensbench lens` and `check` take the folder.

    Examples:

        lensbench adapters merge smollm2-135m runs/adapter -o runs/merged

        lensbench lens runs/merged "The capital of Germany is"
    """
    from lensbench.cli.console import messages, results
    from lensbench.quantized.loading.merged import merge as merged_into

    with messages.status("merging and comparing logits"):
        done = merged_into(model, adapter, out)
    results.print(str(done.folder), markup=False, highlight=False, soft_wrap=True)
    messages.print(
        f"logits differ from the adapter's by {done.error:.1e} of the largest (bound "
        f"{done.bound:.0e}); the adapter itself changes them by {done.changed:.1e}",
        highlight=False,
    )


def _json(rows: Sequence[dict[str, Any]]) -> None:
    typer.echo(jsonlib.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False))


def _table(rows: Sequence[dict[str, Any]], hidden: Sequence[str] = ()) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.console import JustifyMethod
    from rich.table import Table

    from lensbench.cli.console import literal

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    columns = [name for name in rows[0] if name not in hidden]
    for name in columns:
        side: JustifyMethod = "left" if isinstance(rows[0][name], str) else "right"
        table.add_column(name.replace("_", " "), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*(literal(_cell(row[name])) for name in columns))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "n/a"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
