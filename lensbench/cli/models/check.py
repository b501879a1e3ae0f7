"""Measure every identity that must hold before a lens may be reported.

Prints each identity with its error and its bound, and exits with 1 when one fails, as those of
the raw lens do, which is not the model. The same gate, the exactness check, runs inside every
analysis.

Examples:

    lensbench check smollm2-135m

    lensbench check smollm2-135m --norm raw
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lensbench.cli.console import literal, loaded, messages, results
from lensbench.lens.registry import LENSES
from lensbench.models.spec import LoadSpec
from lensbench.spec import one_of

if TYPE_CHECKING:
    from rich.table import Table

    from lensbench.lens.gate import Identity

_PROMPTS = ("The capital of Germany is", "Two plus two is four, and three plus three is six, so")


class CheckSpec(LoadSpec):
    """A model, and the lens to test."""

    norm: Annotated[str, one_of(LENSES)] = "final"
    """The lens to test as a reading of the model's output: final, next or raw."""


def check(spec: Annotated[CheckSpec, Parameter("*")]) -> int:
    from lensbench.lens.gate import check_identities, published_identity

    model = loaded(spec)
    with messages.status("measuring"):
        token_ids = [model.tokenizer(prompt).input_ids for prompt in _PROMPTS]
        published = published_identity(model)
        identities = check_identities(model, token_ids, spec.norm)
        identities += [] if published is None else [published]
    results.print(literal(repr(model)), highlight=False)
    results.print(_table(identities))
    if any(identity.passed is False for identity in identities):
        results.print("[bold red]FAILED[/]: nothing read this way would be reported.")
        return 1
    results.print("[green]passed[/]")
    return 0


def _table(identities: Sequence[Identity]) -> Table:
    from rich.table import Table

    table = Table("identity", "error", "bound", "unit", "", "why this bound")
    mark = {True: "[green]ok[/]", False: "[bold red]FAILED[/]", None: "not testable"}
    for i in identities:
        error = "n/a" if i.error is None else f"{i.error:.2e}"
        table.add_row(i.identity, error, f"{i.bound:.0e}", i.unit, mark[i.passed], i.reason)
    return table
