"""`lensbench eval`: base against adapter, retrieval and both, on the same examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lensbench.cli.options import (
    MODEL_HELP,
    Adapter,
    Bits,
    Device,
    Int8Threshold,
    Rag,
    StyleName,
    model_ref,
)


# The command is `eval`; the function has another name, so that Python's own keeps its meaning.
def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    data: Annotated[
        Path, typer.Option(help="Examples, .jsonl or .csv: id, instruction, response.")
    ],
    adapter: Adapter = None,
    rag: Rag = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="With --rag: documents to retrieve. Default: 1.")
    ] = None,
    bits: Bits = None,
    style: Annotated[
        StyleName | None,
        typer.Option(help="Default: the adapter's own; without one, chat if there is a template."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a response.")] = 200,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Examples at once; halved where memory runs out.")
    ] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many examples.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the record and its report. Default: runs/eval-<name of the data>.",
        ),
    ] = None,
    device: Device = None,
    int8_threshold: Int8Threshold = None,
) -> None:
    """Answer examples with and without an adapter or retrieval, and compare with the references.

    BLEU, ROUGE, perplexity of the reference, format, self-checks, repetitions and length, each
    with 95 % intervals and paired differences to the base. Interrupt it at any time and run it
    again. An example that cannot be asked is reported and the rest goes on (exit status 1).

    Examples:

        lensbench eval smollm2-135m --adapter runs/adapter --data test.jsonl

        lensbench eval smollm2-135m --adapter runs/adapter --rag runs/index --data test.jsonl
    """
    from lensbench.cli.console import batch_progress, interruptible, messages, show_problems
    from lensbench.quantized.evaluation.evaluate import evaluate as measure
    from lensbench.quantized.evaluation.spec import EvalSpec
    from lensbench.report.build import build_report

    if top_k is not None and rag is None:
        raise typer.BadParameter("--top-k has no effect without --rag")
    folder = out or Path("runs") / f"eval-{data.stem}"
    spec = EvalSpec(
        data=data,
        rag=rag,
        top_k=top_k,
        style=style.value if style else None,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        limit=limit,
        device=device,
    )
    ref = model_ref(model, bits, adapter, int8_threshold)
    with interruptible():
        with batch_progress() as progress:
            problems = measure(ref, spec, folder, progress)
        show_problems(problems)
        with messages.status("writing the report"):
            written = build_report([folder])
        _show(folder)
        for path in written:
            if path.suffix in {".md", ".csv"}:
                messages.print(str(path), markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)


def _show(folder: Path) -> None:
    """The table of the report, for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from lensbench.cli.console import results
    from lensbench.report.evaluation.section import read_results, shown
    from lensbench.report.kit.markdown import cell

    frame = shown(read_results(folder))
    results.print(
        f"{frame['n'].max()} examples in {frame['groups'].max()} groups, 95 % intervals in brackets"
    )
    columns = ["metric", "condition", "value", "difference to base"]
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    last = ""
    for metric, *rest in frame[columns].itertuples(index=False):
        table.add_row(*(Text(cell(value)) for value in (metric if metric != last else "", *rest)))
        last = metric
    results.print(table, highlight=False)
