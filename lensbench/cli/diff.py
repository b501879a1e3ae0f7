"""`lensbench diff`: two lens records of the same prompts compared, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lensbench.cli.options import Device


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A record of `lensbench lens`.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another, of the same prompts.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the diff. Default: runs/diff-A-B."),
    ] = None,
    relative_depth: Annotated[
        bool,
        typer.Option("--relative-depth", help="Models of different depth, at shares of it."),
    ] = False,
    context: Annotated[
        bool,
        typer.Option("--context", help="The prompts' texts differ: pair them by their ids."),
    ] = False,
    part_bits: Annotated[
        float,
        typer.Option(help="KL between the lenses, in bits, above which they count as parted."),
    ] = 0.1,
    device: Device = None,
) -> None:
    """What moved between two runs: another model, precision, adapter or context.

    Compares B with A prompt by prompt, at each layer: entropy, KL, rank and probability of the
    answer, and when it emerges; with residuals kept by both runs (--keep-residuals) also how far
    these moved, and KL between the two lenses. Writes a record and its report.

    Examples:

        lensbench lens smollm2-135m smollm2-135m@8 --prompts facts --limit 60 --keep-residuals

        lensbench diff runs/facts/smollm2-135m runs/facts/smollm2-135m-8
    """
    from lensbench.cli.console import (
        batch_progress,
        interruptible,
        literal,
        messages,
        results,
        show_problems,
    )
    from lensbench.compare.diff.record import run_diff
    from lensbench.compare.diff.spec import DiffSpec
    from lensbench.report.build import build_report
    from lensbench.report.diff.section import headline_of

    folder = out or Path("runs") / f"diff-{first.resolve().name}-{second.resolve().name}"
    with interruptible():
        with batch_progress() as progress:
            how = DiffSpec(
                relative_depth=relative_depth, context=context, part_bits=part_bits, device=device
            )
            problems = run_diff(first, second, folder, how, progress)
        show_problems(problems)
        with messages.status("writing the report"):
            written = build_report([folder])
        results.print(literal(headline_of(folder)), highlight=False)
        for path in written:
            if path.suffix == ".md":
                results.print(str(path), markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)
