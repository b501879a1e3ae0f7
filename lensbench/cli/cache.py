"""`lensbench cache`: the residual stream of a prompt set on disk, and a check of what is there."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lensbench.cli.options import MODEL_HELP, Device, Template, TemplateName, layer_numbers


class PositionsName(StrEnum):
    """Which positions of a prompt are kept."""

    last = "last"
    all = "all"
    answer = "answer"


class ResidualDtype(StrEnum):
    """Number formats on disk."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def cache(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None,
    prompts: Annotated[str, typer.Option(help="A prompt set: 'facts', a .csv or a .jsonl.")] = (
        "facts"
    ),
    layers: Annotated[
        str, typer.Option(help="all, or as in 0-5,30; 0 is the embedding. The lens needs the last.")
    ] = "all",
    positions: Annotated[
        PositionsName,
        typer.Option(
            help="last: where the answer is predicted. all: every token of the prompt. answer: the "
            "last, and on through the answer's own tokens, each where the next one is predicted."
        ),
    ] = PositionsName.last,
    dtype: Annotated[
        ResidualDtype,
        typer.Option(help="On disk. bfloat16: half the room, each number within 2^-8 of itself."),
    ] = ResidualDtype.float32,
    mid: Annotated[bool, typer.Option("--mid", help="Also after attention in each block.")] = False,
    template: Template = TemplateName.plain,
    relation: Annotated[
        list[str] | None, typer.Option(help="Only this relation; repeatable.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Base prompts to take. Default: all.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The cache's folder.")] = None,
    device: Device = None,
    check: Annotated[
        Path | None, typer.Option(help="Instead: say what a cache holds, and check every shard.")
    ] = None,
) -> None:
    """Keep the residual stream of a prompt set on disk. Interrupt it and run it again: it goes on.

    The size is said before anything is written, and refused when the disk cannot hold it. What is
    kept can be read a layer at a time (`open_cache` in Python), by `lensbench lens MODEL --cache`
    and by `lensbench correlate`. A prompt that gives NaN is reported and the rest goes on (exit
    status 1); so is a shard that --check finds missing, truncated or altered.

    Examples:

        lensbench cache smollm2-135m --prompts facts --limit 60 -o runs/cache

        lensbench cache smollm2-135m@8 --layers 0,15-20,30 --dtype bfloat16 -o runs/c8

        lensbench cache --check runs/cache
    """
    if check is not None:
        if model is not None or out is not None:
            raise typer.BadParameter("--check takes a cache's folder and nothing else")
        _check(check)
        return
    if model is None or out is None:
        raise typer.BadParameter("give a model and a folder: lensbench cache MODEL -o DIR")
    from lensbench.studies.cache_spec import CacheSpec

    spec = CacheSpec(
        model=model,
        prompts=prompts,
        limit=limit,
        relations=tuple(relation or ()),
        layers=None if layers == "all" else layer_numbers(layers, "--layers"),
        sites=("embed", "resid_mid", "resid_post") if mid else ("embed", "resid_post"),
        positions=positions.value,
        residual_dtype=dtype.value,
        template=template.value,
        device=device,
    )
    from lensbench.cli.console import (
        batch_progress,
        interruptible,
        messages,
        results,
        show_problems,
    )
    from lensbench.studies.cache import run_cache

    def notify(text: str) -> None:
        messages.print(text, markup=False, highlight=False)

    with interruptible():
        with batch_progress() as progress:
            problems = run_cache(spec, out, progress, notify)
        show_problems(problems, str(out / "problems.parquet"))
        results.print(str(out), markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)


def _check(folder: Path) -> None:
    """Show a cache's facts and read every tensor once. Exits with 1 if a shard is damaged."""
    from lensbench.cli.console import failure, interruptible, messages, results
    from lensbench.escape import printable
    from lensbench.residuals.store import open_cache

    opened = open_cache(folder)
    results.print(printable(repr(opened)), markup=False, highlight=False, soft_wrap=True)
    for line in opened.facts():
        results.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    with interruptible(), messages.status("reading every shard"):
        wrong = [what for _, what in opened.files.verify() if what is not None]
    for what in wrong:
        failure(what)
    if wrong:
        raise typer.Exit(1)
    results.print("every shard is whole", highlight=False)
