"""`lensbench check`: the gate, shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lensbench.cli.options import (
    FINAL,
    MODEL_HELP,
    AllowField,
    Device,
    Dtype,
    LensName,
    TrustRemoteCode,
    load,
)

if TYPE_CHECKING:
    from rich.table import Table

    from lensbench.lens.gate import Identity

_PROMPTS = ("The capital of Germany is", "Two plus two is four, and three plus three is six, so")


def check(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    norm: Annotated[
        LensName, typer.Option(help="The lens to test as a reading of the model's output.")
    ] = FINAL,
    dtype: Dtype = None,
    device: Device = None,
    allow_field: AllowField = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure every identity that must hold before a lens may be reported.

    Prints each identity with its error and its bound, and exits with 1 when one fails. The same
    gate runs inside every analysis.

    Examples:

        lensbench check smollm2-135m

        lensbench check smollm2-135m --norm raw   (fails: the raw lens is not the model)
    """
    from lensbench.cli.console import literal, messages, results
    from lensbench.lens.gate import check_identities

    loaded = load(model, dtype, device, allow_field, trust_remote_code)
    with messages.status("measuring"):
        token_ids = [loaded.tokenizer(prompt).input_ids for prompt in _PROMPTS]
        identities = check_identities(loaded, token_ids, norm.value)
    results.print(literal(repr(loaded)), highlight=False)
    results.print(_table(identities))
    if any(identity.passed is False for identity in identities):
        results.print("[bold red]FAILED[/]: nothing read this way would be reported.")
        raise typer.Exit(1)
    results.print("[green]passed[/]")


def _table(identities: Sequence[Identity]) -> Table:
    from rich.table import Table

    table = Table("identity", "error", "bound", "unit", "", "why this bound")
    mark = {True: "[green]ok[/]", False: "[bold red]FAILED[/]", None: "not testable"}
    for i in identities:
        error = "n/a" if i.error is None else f"{i.error:.2e}"
        table.add_row(i.identity, error, f"{i.bound:.0e}", i.unit, mark[i.passed], i.reason)
    return table
