"""The numbers of an evaluation: every metric by condition, and its difference to the base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensbench.records.record import Record
from lensbench.report.evaluation.bleu import N_TERMS, corpus_bleu
from lensbench.report.kit import numbers
from lensbench.report.kit.examples import drawn_together
from lensbench.report.kit.table import Table, catalogue
from lensbench.stats.estimates import (
    EXAMPLES,
    Estimate,
    clustered_estimate,
    paired_difference,
    summed_difference,
    summed_estimate,
)
from lensbench.stats.intervals import ratio
from lensbench.stats.resampling import Floats

BASE = "base"
CONDITIONS = (BASE, "adapter", "rag", "adapter+rag")


def _perplexity(sums: Floats) -> Floats:
    return np.exp2(ratio(sums))


@dataclass(frozen=True)
class Metric:
    """A number over examples: from each one's terms, through their sums."""

    label: str
    better: str  # "more", "less" or "" where neither is
    column: str
    weight: str | None = None  # the column that examples weigh by; None: all the same
    of_sums: Callable[[Floats], Floats] = ratio
    share: bool = False  # of examples, by 0 and 1

    def value(self, rows: pd.DataFrame, groups: Sequence[object]) -> Estimate:
        """Over the examples."""
        if self.share:
            return clustered_estimate(rows[self.column], groups, "share", "no examples", EXAMPLES)
        return summed_estimate(self.terms(rows), self.of_sums, groups)

    def difference(
        self, rows: pd.DataFrame, base: pd.DataFrame, groups: Sequence[object]
    ) -> Estimate:
        """Of two conditions of the same examples."""
        if self.share:
            drawn = pd.Series(list(groups), index=rows.index, dtype=object)
            return paired_difference(rows[self.column], base[self.column], drawn, "share", EXAMPLES)
        return summed_difference(self.terms(rows), self.terms(base), self.of_sums, groups)

    def terms(self, rows: pd.DataFrame) -> Floats:
        """[example, term]"""
        values = rows[self.column]
        if self.of_sums is corpus_bleu:
            return np.array(values.tolist(), dtype=np.float64).reshape(-1, N_TERMS)
        weights = rows[self.weight] if self.weight else np.ones(len(rows))
        return np.column_stack([values.astype(float), weights]).astype(np.float64)


# To add a metric: its column in the records, and one entry here.
METRICS = {
    "corpus_bleu": Metric("corpus BLEU (0-100)", "more", "bleu_statistics", of_sums=corpus_bleu),
    "sentence_bleu": Metric("sentence BLEU (0-100)", "more", "bleu"),
    "rouge1": Metric("ROUGE-1 F1 (0-1)", "more", "rouge1"),
    "rouge2": Metric("ROUGE-2 F1 (0-1)", "more", "rouge2"),
    "rougel": Metric("ROUGE-L F1 (0-1)", "more", "rougel"),
    "perplexity": Metric(
        "perplexity of the reference",
        "less",
        "reference_nll_bits",
        "n_reference_tokens",
        _perplexity,
    ),
    "format_kept": Metric("format kept (share)", "more", "format_ok", share=True),
    "self_check": Metric("self-check (share)", "less", "self_check", share=True),
    "duplicated": Metric("said twice (share)", "less", "duplicated", share=True),
    "stopped": Metric("ended by itself (share)", "more", "stopped", share=True),
    "generated_tokens": Metric("length (tokens)", "", "n_generated_tokens"),
}


def tables(record: Record) -> dict[str, Table]:
    """The one table: every metric by condition."""
    return catalogue({"eval_results": ("Results", results(record))})


def results(record: Record) -> pd.DataFrame:
    """One row per metric and condition, intervals and paired differences in columns of numbers."""
    examples_of = by_condition(record)
    groups = drawn_together(next(iter(examples_of.values())).reset_index())
    rows = []
    for name, metric in METRICS.items():
        for condition, own in examples_of.items():
            difference = None
            if condition != BASE:
                difference = metric.difference(own, examples_of[BASE], groups)
            rows.append(_row(condition, name, metric.value(own, groups), difference))
    return _with_reasons(pd.DataFrame(rows))


def read_results(folder: Path) -> Table:
    """The results as a report in `folder` has them."""
    frame = pd.read_csv(folder / "tables" / "eval_results.csv", keep_default_na=True)
    return Table("eval_results", "Results", _with_reasons(frame))


def _with_reasons(frame: pd.DataFrame) -> pd.DataFrame:
    """The same, a missing reason None: pandas makes it NaN, which is neither text nor false."""
    reasons = frame["reason"].astype(object)
    return frame.assign(reason=reasons.where(reasons.notna(), None))


def by_condition(record: Record) -> dict[str, pd.DataFrame]:
    """Each condition's rows by prompt_id: the examples that every condition has, in one order."""
    rows = record.table("evaluation")
    rows = rows.assign(stopped=rows["finish_reason"] == "stop").set_index("prompt_id")
    wanted = record.manifest["settings"]["conditions"]
    found = {condition: rows[rows["condition"] == condition] for condition in wanted}
    shared = sorted(set.intersection(*(set(own.index) for own in found.values())))
    return {condition: own.loc[shared] for condition, own in found.items()}


def _row(
    condition: str, metric: str, value: Estimate, difference: Estimate | None
) -> dict[str, object]:
    against = difference or Estimate(None, None, None, 0, 0)
    return {
        "condition": condition,
        "metric": metric,
        "n": value.n,
        "groups": value.n_clusters,
        "value": value.value,
        "low": value.low,
        "high": value.high,
        "difference": against.value,
        "diff_low": against.low,
        "diff_high": against.high,
        "reason": value.reason or against.reason,
    }


def value_of(row: Mapping[Any, Any]) -> Estimate:
    """The value in a row of `results`."""
    return _estimate(row, "value", "low", "high")


def difference_of(row: Mapping[Any, Any]) -> Estimate:
    """The paired difference in a row of `results`."""
    return _estimate(row, "difference", "diff_low", "diff_high")


def _estimate(row: Mapping[Any, Any], *columns: str) -> Estimate:
    value, low, high = (None if numbers.is_missing(row[c]) else float(row[c]) for c in columns)
    return Estimate(value, low, high, row["n"], row["groups"], row["reason"] or "the base itself")


def shown(table: Table) -> pd.DataFrame:
    """The results as text has them: each number with its interval."""
    return pd.DataFrame(
        [
            {
                "metric": METRICS[row["metric"]].label,
                "condition": row["condition"],
                "n": row["n"],
                "groups": row["groups"],
                "value": value_of(row),
                "difference to base": None if row["condition"] == BASE else difference_of(row),
            }
            for row in table.frame.to_dict("records")
        ]
    )


def verdicts(table: Table) -> list[tuple[str, ...]]:
    """Per condition: where it is better than the base, where worse, and where it cannot be told."""
    found = []
    for condition in [c for c in CONDITIONS[1:] if (table.frame["condition"] == c).any()]:
        sides: dict[str, list[str]] = {"better": [], "worse": [], "cannot tell": []}
        for row in table.frame[table.frame["condition"] == condition].to_dict("records"):
            metric = METRICS[row["metric"]]
            if metric.better:
                difference = difference_of(row)
                text = f"{metric.label} {numbers.estimate(difference)}"
                sides[_side(difference, metric.better)].append(text)
        found.append((condition, *("; ".join(texts) or "nothing" for texts in sides.values())))
    return found


def _side(difference: Estimate, better: str) -> str:
    """Which side of zero the whole interval lies on, in words."""
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return "cannot tell"
    return "better" if (difference.low > 0) == (better == "more") else "worse"
