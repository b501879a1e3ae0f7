"""`lensbench correlate`: which layers differ between runs, and which to train."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lensbench.compare.correlation.record import Outcome
    from lensbench.compare.correlation.spec import CorrelationSpec

SHOWN_LAYERS = 8  # of a ranking


class SpanName(StrEnum):
    """Which tokens of a traced run."""

    prompt = "prompt"
    generated = "generated"


class MeasureName(StrEnum):
    """Measures of similarity."""

    pearson = "pearson"
    cosine = "cosine"
    cka = "cka"
    cka_biased = "cka_biased"
    rsa = "rsa"
    procrustes = "procrustes"


def correlate(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Traced runs or caches, each [NAME=]FOLDER[:prompt|:generated]; all are compared "
            "with the first.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the record and its report.")],
    control: Annotated[
        list[str] | None,
        typer.Option(
            help="A run whose change counts as chance, such as an irrelevant context of the same "
            "length; FOLDER or NAME=FOLDER, repeatable."
        ),
    ] = None,
    span: Annotated[
        list[SpanName] | None, typer.Option(help="Only these tokens; repeatable. Default: both.")
    ] = None,
    measure: Annotated[
        list[MeasureName] | None,
        typer.Option(help="Only this measure; repeatable. Default: all."),
    ] = None,
    suggest_blocks: Annotated[
        int | None,
        typer.Option(
            help="Suggest so many contiguous blocks to train; writes the file that `lensbench "
            "train --blocks auto:FILE` takes."
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option(help="Draws of the bootstrap, and of the permutation test.")
    ] = 2000,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    groups: Annotated[
        Path | None,
        typer.Option(
            help="A .csv with id and group: prompts of a group are drawn and swapped together."
        ),
    ] = None,
    relative_depth: Annotated[
        bool,
        typer.Option(
            "--relative-depth",
            help="Compare models of different depth or tokenizer, at equal shares of the depth.",
        ),
    ] = False,
    unpaired: Annotated[
        bool,
        typer.Option(
            "--unpaired",
            help="Compare runs of different prompts: by Pearson of their mean vectors alone.",
        ),
    ] = False,
) -> None:
    """Compare the activations of runs, layer by layer, with intervals and a test.

    The runs are traces of `lensbench infer --trace` over the same prompt ids. Without --control a
    layer only counts as changed; with it, as changed more than the control. Prompts that a run
    lacks are reported and left out of all (exit status 1).

    Examples:

        lensbench correlate runs/plain runs/rag -o runs/rag-layers

        lensbench correlate runs/plain runs/rag --control runs/irrelevant -o runs/rag-layers
            --suggest-blocks 6

        lensbench correlate fp32=runs/a int8=runs/b -o runs/precision --span generated

        lensbench correlate runs/general runs/python -o runs/topics --unpaired

        lensbench correlate runs/plain:prompt runs/plain:generated -o runs/spans
    """
    from lensbench.compare.correlation.spec import CorrelationSpec

    chosen: dict[str, Any] = {}
    if span:
        chosen["spans"] = tuple(dict.fromkeys(one.value for one in span))
    if measure:
        chosen["measures"] = tuple(dict.fromkeys(one.value for one in measure))
    spec = CorrelationSpec(
        runs=tuple(runs),
        out=out,
        controls=tuple(control or ()),
        n_blocks=suggest_blocks,
        resamples=resamples,
        seed=seed,
        relative_depth=relative_depth,
        unpaired=unpaired,
        groups=groups,
        **chosen,
    )
    _run(spec)


def _run(spec: CorrelationSpec) -> None:
    from lensbench.cli.console import batch_progress, interruptible, messages, results
    from lensbench.cli.console import show_problems as show
    from lensbench.compare.correlation.record import correlate as compare
    from lensbench.report.build import build_report

    with interruptible():
        with batch_progress() as progress:
            outcome = compare(spec, progress)
        show(outcome.problems)
        _show_ranking(outcome, spec.main)
        with messages.status("writing the report"):
            written = build_report([outcome.folder])
        paths = [outcome.folder, *outcome.suggested.values()]
        for path in (*paths, *(p for p in written if p.suffix in (".md", ".html"))):
            results.print(str(path), markup=False, highlight=False, soft_wrap=True)
    if outcome.problems:
        raise typer.Exit(1)


def _show_ranking(outcome: Outcome, main: tuple[str, str]) -> None:
    """The layers that changed most, by the measure and variant that choose blocks."""
    import json

    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from lensbench.cli.console import results
    from lensbench.escape import printable

    rows = [
        row
        for row in outcome.tables["layer_ranking"].to_pylist()
        if (row["measure"], row["variant"]) == main and row["rank"] is not None
    ]
    kinds = dict.fromkeys((row["span"], row["condition"], row["control"]) for row in rows)
    for span, condition, control in kinds:
        own = [
            r
            for r in rows
            if (r["span"], r["condition"], r["control"]) == (span, condition, control)
        ]
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        for heading in ("layer", "block", "change", "95 %", "p adjusted"):
            table.add_column(Text(heading), justify="right", no_wrap=True)
        for row in sorted(own, key=lambda row: row["rank"])[:SHOWN_LAYERS]:
            table.add_row(*_cells(row))
        against = f", above {printable(control)}" if control is not None else ", no control"
        results.print(Text(f"{printable(condition)}, {span} tokens{against}"))
        results.print(table)
    for (span, condition), path in outcome.suggested.items():
        why = json.loads(path.read_text(encoding="utf-8"))["why"]
        results.print(Text(f"{printable(condition)}, {span} tokens: {why}"))


def _cells(row: dict[str, Any]) -> list[str]:
    interval = "–" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
    p = f"n/a ({row['p_reason']})" if row["p_adjusted"] is None else f"{row['p_adjusted']:.4f}"
    return [str(row["layer"]), str(row["block"]), f"{row['change']:.4f}", interval, p]
