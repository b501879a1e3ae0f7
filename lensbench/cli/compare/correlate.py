"""Compare the activations of runs, layer by layer, with intervals and a test.

The runs are traces of `lensbench infer --trace` over the same prompt ids. Without --control a layer
only counts as changed; with it, as changed more than the control. Prompts that a run lacks are
reported and skipped in all (exit status 1).

Examples:

    lensbench correlate runs/plain runs/rag -o runs/rag-layers

    lensbench correlate runs/plain runs/rag --control runs/irrelevant \
        -o runs/rag-layers --suggest-blocks 6

    lensbench correlate fp32=runs/a int8=runs/b -o runs/precision --span generated

    lensbench correlate runs/general runs/python -o runs/topics --unpaired

    lensbench correlate runs/plain:prompt runs/plain:generated -o runs/spans
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from lensbench.cli.console import (
    batch_progress,
    results,
    say,
    show_problems,
    show_reports,
    table,
)
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.escape import printable

SHOWN_LAYERS = 8  # of a ranking


def correlate(spec: Annotated[CorrelationSpec, Parameter("*")]) -> int:
    from lensbench.compare.correlation.record import correlate as compare
    from lensbench.compare.correlation.suggest import chosen_in, suggested

    with batch_progress() as progress:
        outcome = compare(spec, progress)
    show_problems(outcome.problems)
    chosen = suggested(outcome.folder)
    _show_ranking(outcome.folder, spec.main)
    for (span, condition), path in chosen.items():
        why = chosen_in(path)["why"]
        results.print(Text(f"{printable(condition)}, {span} tokens: {why}"))
    for path in (outcome.folder, *chosen.values()):
        say(path)
    show_reports([outcome.folder])
    return 1 if outcome.problems else 0


def _show_ranking(folder: Path, main: tuple[str, str]) -> None:
    """The layers that changed most, by the measure and variant that choose blocks."""
    from lensbench.records.read import read_table

    rows = [
        row
        for row in read_table(folder, "layer_ranking").to_pylist()
        if (row["measure"], row["variant"]) == main and row["rank"] is not None
    ]
    kinds = dict.fromkeys((row["span"], row["condition"], row["control"]) for row in rows)
    for span, condition, control in kinds:
        own = [
            r
            for r in rows
            if (r["span"], r["condition"], r["control"]) == (span, condition, control)
        ]
        first = sorted(own, key=lambda row: row["rank"])[:SHOWN_LAYERS]
        against = f", above {printable(control)}" if control is not None else ", no control"
        results.print(Text(f"{printable(condition)}, {span} tokens{against}"))
        results.print(table([_shown(row) for row in first]))


def _shown(row: dict[str, Any]) -> dict[str, object]:
    interval = "–" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
    p = f"n/a ({row['p_reason']})" if row["p_adjusted"] is None else f"{row['p_adjusted']:.4f}"
    place = {"layer": row["layer"], "block": row["block"]}
    return place | {"change": f"{row['change']:.4f}", "95 %": interval, "p adjusted": p}
