"""Answer examples with and without an adapter or retrieval, and compare with the references.

BLEU, ROUGE, perplexity of the reference, format, self-checks, repetitions and length, each with 95
% intervals and paired differences to the base. Interrupt it at any time and run it again. An
example that cannot be asked is reported and the rest goes on (exit status 1).

Examples:

    lensbench eval smollm2-135m --adapter runs/adapter --data test.jsonl

    lensbench eval smollm2-135m --adapter runs/adapter --rag runs/index \
        --data test.jsonl
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lensbench.cli.console import (
    batch_progress,
    results,
    say,
    show_problems,
    show_reports,
)
from lensbench.cli.options import Workers
from lensbench.quantized.evaluation.spec import EvalSpec
from lensbench.quantized.spec import ModelSpec


class EvaluationSpec(EvalSpec, ModelSpec):
    """A model, the examples, and where the record goes."""

    out: Annotated[Path | None, Parameter(("--out", "-o"))] = None
    """Folder of the record and its report. Default: runs/eval-<name of the data>."""


def eval(spec: Annotated[EvaluationSpec, Parameter("*")], *, workers: Workers = None) -> int:
    from lensbench.quantized.evaluation.evaluate import evaluate

    folder = spec.out or Path("runs") / f"eval-{spec.data.stem}"
    with batch_progress(workers) as progress:
        problems = evaluate(spec.ref, spec, folder, progress)
    show_problems(problems)
    show_reports([folder])
    _show(folder)
    return 1 if problems else 0


def _show(folder: Path) -> None:
    """The table of the report, for the terminal."""
    from lensbench.report.evaluation.results import read_results, shown
    from lensbench.report.kit.markdown import cell
    from lensbench.report.kit.reasons import said_once

    frame, notes = said_once(shown(read_results(folder)))
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
    for one in notes:
        say(one)
