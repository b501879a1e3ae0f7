"""Fit a lens to a model: a map from each layer's state to the last one.

The logit lens reads a middle layer as if it were the last, and is nearly blind on some models; a
fitted lens translates first. It is kept where --lens finds it by its name, in every verb that takes
one, or in the folder of --out. Interrupt it and run it again: it goes on.

Examples:

    lensbench fit smollm2-135m

    lensbench fit smollm2-135m --corpus texts/ --tokens 100000 -o lenses/texts

    lensbench fit smollm2-135m --lens tuned

    lensbench fit smollm2-135m --lens jacobian --jacobian-tokens 256

    lensbench lens smollm2-135m "The capital of Germany is" --lens linear
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.text import Text

from lensbench.cli.console import batch_progress, results, show_problems, show_reports, table
from lensbench.cli.options import Workers
from lensbench.escape import printable
from lensbench.fitting.spec import FitSpec

if TYPE_CHECKING:
    from lensbench.records.record import Record

_SHOWN = 11  # layers of the table, spread over all


def fit(
    spec: Annotated[FitSpec, Parameter("*")],
    *,
    out: Annotated[
        Path | None,
        Parameter(("--out", "-o"), help="Folder. Default: where the lens' name finds it."),
    ] = None,
    workers: Workers = None,
) -> int:
    from lensbench.records.open import open_record
    from lensbench.studies.stages.fit import fit_lens

    with batch_progress(workers) as progress:
        outcome = fit_lens(spec, out, progress)
    _show(open_record(outcome.folder))
    show_problems(outcome.problems)
    show_reports([outcome.folder], outcome.folder)
    return 0 if outcome.ok else 1


def _show(record: Record) -> None:
    """KL to the model on held-out text, by layer and reading."""
    quality = record.table("fit_quality")
    kl_bits = quality.pivot(index="layer", columns="reading", values="kl_bits")
    n_layers = record.n_layers
    layers = sorted({round(i * n_layers / (_SHOWN - 1)) for i in range(_SHOWN)})
    columns = ["final", "fitted", "linear", "shifted", "calibration", "shuffled", "untrained"]
    rows = [
        {"layer": layer, "depth": f"{layer / n_layers:.0%}"}
        | {name: _bits(kl_bits[name][layer]) for name in columns if name in kl_bits}
        for layer in layers
    ]
    n_tokens, n_documents = quality["n_tokens"][0], quality["n_documents"][0]
    corpus = printable(record.manifest["corpus"]["name"])
    told = (
        f"KL(model || lens) in bits, means over {n_tokens:,} tokens of {n_documents} documents of "
        f"{corpus} that it was not fitted to (intervals are in the report):"
    )
    results.print(Text(told))
    results.print(table(rows))


def _bits(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"  # no such reading at this layer
