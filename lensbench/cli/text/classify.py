"""Tell labelled texts apart, by training an encoder and by prompting causal models.

Every method learns from the same texts and is tested on the same others: the most frequent label
(majority), logistic regression on a frozen encoder's states (probe), a LoRA adapter (lora), all of
the encoder's weights (full), a causal model asked for the label's word without and with examples
(zero_shot, few_shot), plain and calibrated. As a control those that learn also learn from shuffled
labels.

With --out a record and a report: accuracy with intervals over examples and over seeds, trained
parameters, size on disk, time and memory. Without: a table.

Examples:

    lensbench classify

    lensbench classify mine.csv --methods probe lora --seeds 0-2

    lensbench classify reviews pang-lee --causal smollm2-135m -o runs/classify

    lensbench classify sst2.csv --encoder distilbert/distilbert-base-uncased
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lensbench.classification.spec import ClassifySpec
from lensbench.cli.console import (
    batch_progress,
    explain,
    note,
    results,
    say,
    say_json,
    short,
    show_problems,
    without_nan,
)
from lensbench.cli.console import table as shown_table
from lensbench.cli.lens.run import run_and_report
from lensbench.errors import Problem
from lensbench.escape import printable
from lensbench.spec import without_effect

if TYPE_CHECKING:
    from lensbench.classification.result import Classified


class ClassifyVerb(ClassifySpec):
    """Labelled texts, and who tells them apart."""

    out: Annotated[Path | None, Parameter(("--out", "-o"))] = None
    """Run folder: a record of each set of texts, with its report."""
    as_json: Annotated[bool, Parameter("--json")] = False
    """The table as JSON on standard output."""

    def problems(self) -> list[Problem]:
        """An option that would have no effect is an error, not a surprise."""
        found = []
        if self.out and self.as_json:
            found.append(Problem("as_json", "it has no effect with `out`", "Leave it out."))
        if not self.out:
            found += without_effect(self, ("checkpoint_every",), "without `out`")
        return found + super().problems()


_AS_USUAL = ClassifyVerb()


def classify(spec: Annotated[ClassifyVerb, Parameter("*")] = _AS_USUAL) -> int:
    if spec.out is not None:
        return run_and_report(ClassifySpec(**_given(spec)), spec.out)
    from lensbench.classification.examples import load_every
    from lensbench.classification.result import classify as classified

    load_every(spec.data)  # what is wrong with the last is said before the first is learnt from
    found = []
    for source in spec.data:
        with batch_progress(kept=False) as progress:
            options = _given(spec) | {"data": source}
            found.append(classified(**options, watch=progress))
    problems = [problem for one in found for problem in one.problems]
    if spec.as_json:
        say_json([{"data": one.data} | without_nan(row) for one in found for row in _rows(one)])
    else:
        for one in found:
            show(one)
    show_problems(problems, "the lines above")
    return 1 if problems else 0


def _given(spec: ClassifyVerb) -> dict[str, Any]:
    """The options of the study that were given; what was not keeps its default."""
    own = spec.shared(ClassifySpec)
    return {name: own[name] for name in own if name in spec.model_fields_set}


def _rows(found: Classified) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = found.table.to_dict("records")  # type: ignore[assignment]
    return rows


def show(found: Classified) -> None:
    """A row a method: what it tells, and under that what it costs. Both fit 80 columns."""
    say(f"{printable(found.data)}: {found.accuracy['n_test'].max()} texts tested")
    rows = [(_named(row), row) for row in _rows(found)]
    told = [
        names
        | {
            "accuracy, %": _interval(row, "accuracy", "accuracy"),
            "over seeds": _interval(row, None, "seeds"),
        }
        for names, row in rows
    ]
    spent = [
        names
        | {
            "trained": _known(row["n_trainable"], "{:,.0f}".format),
            "MB": _known(row["saved_bytes"], lambda n: short(1e-6 * n, 3)),
            "s": _known(row["learn_wall_s"], "{:,.1f}".format),
        }
        for names, row in rows
    ]
    for shown in (told, spent):
        results.print(shown_table(shown, left=("method", "model", "labels")))
    explain(
        "Intervals are of 95 %, over texts and over seeds; *: calibrated for what the model says "
        "of texts without content. MB and s: what is learnt, and how long it takes. With -o "
        "FOLDER: a record of it, with a report."
    )
    cut = found.costs["n_cut"].max()
    if cut > 0:
        note(f"{int(cut)} texts were cut to fit; --max-length and the model say to how many tokens")


def _named(row: dict[str, Any]) -> dict[str, str]:
    """Whose row it is."""
    return {
        "method": row["method"].replace("_calibrated", " *"),
        "model": printable(row["model"]) if isinstance(row["model"], str) else "",
        "labels": row["labels"],
    }


def _interval(row: dict[str, Any], value: str | None, ends: str) -> str:
    import pandas as pd

    shown = "" if value is None else f"{100 * row[value]:.1f} "
    low, high = row[f"{ends}_low"], row[f"{ends}_high"]
    return shown.strip() if pd.isna(low) else f"{shown}[{100 * low:.0f}, {100 * high:.0f}]"


def _known(value: Any, form: Callable[[Any], str]) -> str:
    import pandas as pd

    return "" if pd.isna(value) else form(value)
