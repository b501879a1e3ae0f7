"""The report of an evaluation: better or worse than the base, by every metric."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from lensbench.records.record import Record
from lensbench.report.evaluation.results import (
    CONDITIONS,
    METRICS,
    Metric,
    by_condition,
    difference_of,
    shown,
    tables,
    value_of,
    verdicts,
)
from lensbench.report.kit import numbers
from lensbench.report.kit.examples import example_picker
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.markdown import rendered
from lensbench.report.kit.page import WHOLE, Page, Picker, chart
from lensbench.report.kit.table import Table
from lensbench.report.kit.views import Axis, Dots, Line, Nothing, Texts, View, of_values
from lensbench.report.section import Section, written

SHOWN_EXAMPLES = 3  # in the report itself; examples.md has more
MANY_EXAMPLES = 20
_TITLE = "difference to the base"
_BETTER = {"more": " (right: better)", "less": " (left: better)", "": ""}


def evaluation(record: Record, name: str) -> Section:
    """One evaluation's report."""
    made = tables(record)
    table = made["eval_results"]
    compared = bool(table.frame["difference"].notna().any())
    found = verdicts(table)
    text, limitations = written(
        "evaluation",
        tables=made,
        model=record.manifest["model"],
        conditions=list(by_condition(record)),
        verdicts=found,
        compared=compared,
        shown=shown(table),
        examples=examples(record, SHOWN_EXAMPLES),
        context_cut=record.manifest["context_cut"],
        metrics=METRICS,
    )
    return Section(
        title=f"{name}: evaluation",
        tables=made,
        text=text,
        headline=headline(made),
        limitations=limitations,
        figures={"differences": partial(to_svg, panels, differences(table))} if compared else {},
        page=partial(evaluation_page, name, record, table),
        files={"examples.md": examples_text(record, name)},
        digest=rendered("evaluation/verdicts.md.j2", verdicts=found),
        cover="differences" if compared else "",
    )


def examples(record: Record, count: int) -> list[dict[str, Any]]:
    """Up to `count` examples at even distances in prompt_id order: prompt, reference, answers."""
    rows = record.table("evaluation")
    ids = sorted(rows["prompt_id"].unique())
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int))
    return [_example(rows[rows["prompt_id"] == ids[i]]) for i in chosen]


def _example(rows: pd.DataFrame) -> dict[str, Any]:
    first = rows.iloc[0]
    answers = [("reference", first["reference"])]
    answers += list(zip(rows["condition"], rows["response"], strict=True))
    return {"id": first["prompt_id"], "prompt": first["prompt"], "answers": answers}


def examples_text(record: Record, name: str) -> str:
    """`examples.md`."""
    total = record.table("evaluation")["prompt_id"].nunique()
    shown = examples(record, MANY_EXAMPLES)
    return rendered("evaluation/examples.md.j2", name=name, examples=shown, total=total)


def differences(table: Table) -> list[Dots]:
    """Paired differences to the base: a view for each metric, a row for each condition."""
    present = [c for c in CONDITIONS[1:] if (table.frame["condition"] == c).any()]
    return [_differences(table, name, present) for name in METRICS]


def _differences(table: Table, name: str, present: list[str]) -> Dots:
    metric = METRICS[name]
    rows = [Line(c, [difference_of(table.row(metric=name, condition=c))]) for c in present]
    return Dots(Axis(_TITLE), rows, f"{metric.label}{_BETTER[metric.better]}", zero=True)


def evaluation_page(name: str, record: Record, table: Table) -> Page:
    """Every metric by condition, over all examples or of one; and what was answered."""
    rows = record.table("evaluation")
    own = by_condition(record)
    ids = list(next(iter(own.values())).index)
    metric = Picker("Metric", {key: metric.label for key, metric in METRICS.items()})
    first = rows.drop_duplicates("prompt_id").set_index("prompt_id").loc[ids].reset_index()
    example = example_picker(first, dict(zip(ids, first["prompt"], strict=True)))
    by_id = dict(list(rows.groupby("prompt_id", sort=False)))
    alone = {(key, c): _alone(metric, own[c]) for key, metric in METRICS.items() for c in own}

    def values(key: str, item: str) -> Dots:
        lines = [
            Line(c, [value_of(table.row(metric=key, condition=c))])
            if item == WHOLE
            else Line(c, of_values([float(alone[key, c][item])]))
            for c in own
        ]
        return Dots(Axis(METRICS[key].label), lines)

    def answers(item: str) -> View:
        if item == WHOLE:
            return Nothing("Pick an example to read what each condition answered.")
        one = _example(by_id[item])
        return Texts([("prompt", one["prompt"]), *one["answers"]])

    present = [c for c in CONDITIONS[1:] if c in own]
    charts = [
        chart("By condition", "Over all examples with 95 % intervals.", (metric, example), values),
        chart(
            "Less the base",
            "Paired by example, with 95 % intervals.",
            (metric,),
            lambda key: _differences(table, key, present),
        ),
        chart("Answers", "", (example,), answers, size="wide"),
    ]
    sentence = "The same examples in every condition."
    return Page(f"{name}: evaluation", sentence, (metric, example), charts)


def _alone(metric: Metric, rows: pd.DataFrame) -> pd.Series:
    """A metric over each example alone; NaN where it has none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return pd.Series(metric.of_sums(metric.terms(rows)), rows.index)


def headline(made: Mapping[str, Table]) -> str:
    """One sentence for an index."""
    table = made["eval_results"]
    n = table.frame["n"].max()
    parts = [
        f"{condition}: ROUGE-L {numbers.estimate(difference_of(row))} against the base"
        for condition, *_ in verdicts(table)
        for row in [table.row(condition=condition, metric="rougel")]
    ]
    return f"{n} examples; {'; '.join(parts) or 'the base alone'}"
