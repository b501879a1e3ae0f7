"""The report of an evaluation: every metric by condition, and its paired difference to the base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensbench.report.evaluation.bleu import N_TERMS, corpus_bleu
from lensbench.report.evaluation.examples import examples, examples_page
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import COLOURS, GREY, WIDTH, to_svg
from lensbench.report.kit.tables import Table
from lensbench.report.load import SecondRecord
from lensbench.stats.bootstrap import CONFIDENCE, Estimate, Floats, summed_bootstrap

BASE = "base"
CONDITIONS = (BASE, "adapter", "rag", "adapter+rag")
FEW = 100  # examples
FEW_GROUPS = 20
SHOWN_EXAMPLES = 3  # in the report itself; examples.md has more


def _ratio(sums: Floats) -> Floats:
    """A mean, from the sums of values and of weights."""
    return sums[..., 0] / sums[..., 1]


def _perplexity(sums: Floats) -> Floats:
    return np.exp2(_ratio(sums))


@dataclass(frozen=True)
class Metric:
    """A number over examples: from each one's terms, through their sums."""

    label: str
    better: str  # "more", "less" or "" where neither is
    column: str
    weight: str | None = None  # the column that examples weigh by; None: all the same
    of_sums: Callable[[Floats], Floats] = _ratio

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
    "format_kept": Metric("format kept (share)", "more", "format_ok"),
    "self_check": Metric("self-check (share)", "less", "self_check"),
    "duplicated": Metric("said twice (share)", "less", "duplicated"),
    "stopped": Metric("ended by itself (share)", "more", "stopped"),
    "generated_tokens": Metric("length (tokens)", "", "n_generated_tokens"),
}


def tables(record: SecondRecord) -> dict[str, Table]:
    """The one table: every metric by condition."""
    table = Table(
        "eval_results",
        "Results",
        results(record),
        "Means over the same examples in every condition; differences are paired with the base, "
        "example by example. Groups: examples that the data call one group, or single ones; "
        "intervals draw whole groups. Corpus BLEU and perplexity follow from sums over examples.",
    )
    return {table.name: table}


def results(record: SecondRecord) -> pd.DataFrame:
    """One row per metric and condition, intervals and paired differences in columns of numbers."""
    examples_of = by_condition(record)
    groups = _groups(next(iter(examples_of.values())))
    rows = []
    for name, metric in METRICS.items():
        terms = {c: metric.terms(own) for c, own in examples_of.items()}
        for condition, own in terms.items():
            value = summed_bootstrap(own, metric.of_sums, groups)
            difference = None
            if condition != BASE:
                difference = _difference(own, terms[BASE], metric.of_sums, groups)
            rows.append(_row(condition, name, value, difference))
    return pd.DataFrame(rows)


def read_results(folder: Path) -> Table:
    """The results as a report in `folder` has them."""
    frame = pd.read_csv(folder / "tables" / "eval_results.csv", keep_default_na=True)
    return Table("eval_results", "Results", frame.astype({"reason": object}))


def by_condition(record: SecondRecord) -> dict[str, pd.DataFrame]:
    """Each condition's rows by prompt_id: the examples that every condition has, in one order."""
    rows = record.tables["evaluation"]
    rows = rows.assign(stopped=rows["finish_reason"] == "stop").set_index("prompt_id")
    wanted = record.manifest["settings"]["conditions"]
    found = {condition: rows[rows["condition"] == condition] for condition in wanted}
    shared = sorted(set.intersection(*(set(own.index) for own in found.values())))
    return {condition: own.loc[shared] for condition, own in found.items()}


def _groups(rows: pd.DataFrame) -> list[str]:
    """The group that each example is drawn with: the data's, or the example itself."""
    own = [f"example {i}" for i in rows.index]
    named = rows["group"].tolist()
    return [o if numbers.is_missing(g) else f"group {g}" for o, g in zip(own, named, strict=True)]


def _difference(
    own: Floats, base: Floats, of_sums: Callable[[Floats], Floats], groups: Sequence[str]
) -> Estimate:
    """The metric minus the base's, both from the same drawn examples."""
    k = own.shape[1]
    both = np.hstack([own, base])
    return summed_bootstrap(
        both, lambda sums: of_sums(sums[..., :k]) - of_sums(sums[..., k:]), groups
    )


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
        "reason": value.reason,
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


def shown_examples(record: SecondRecord) -> list[dict[str, Any]]:
    """The examples that stand in the report itself."""
    return examples(record, SHOWN_EXAMPLES)


def files(record: SecondRecord, made: dict[str, Table]) -> Iterator[tuple[str, bytes]]:
    """The forest of differences, and the examples side by side."""
    frame = made["eval_results"].frame
    if frame["difference"].notna().any():
        yield "figures/differences.svg", to_svg(differences_figure, frame)
    yield "examples.md", examples_page(record).encode()


def differences_figure(frame: pd.DataFrame) -> Figure:
    """Paired differences to the base, a panel per metric, a row per condition."""
    present = [c for c in CONDITIONS[1:] if (frame["condition"] == c).any()]
    columns = 3
    n_rows = -(-len(METRICS) // columns)
    figure = Figure(figsize=(WIDTH, n_rows * (1.0 + 0.28 * len(present))), layout="constrained")
    panels = figure.subplots(n_rows, columns, squeeze=False)
    for axis, (name, metric) in zip(panels.flat, METRICS.items(), strict=False):
        _forest(axis, frame[frame["metric"] == name], present)
        arrow = {"more": " (right: better)", "less": " (left: better)", "": ""}[metric.better]
        axis.set_title(f"{metric.label}{arrow}", fontsize=9.5)
    for i, axis in enumerate(panels.flat):
        if i >= len(METRICS):
            axis.set_axis_off()
        elif i % columns:
            axis.tick_params(labelleft=False)
    figure.supxlabel("difference to the base, 95 % interval over examples", fontsize=10)
    return figure


def _forest(axis: Axes, frame: pd.DataFrame, present: list[str]) -> None:
    """One metric: a point and an interval per condition, zero marked."""
    axis.axvline(0, color=GREY, linewidth=1)
    rows = frame.set_index("condition").to_dict("index")
    for y, condition in enumerate(present):
        row = rows[condition]
        colour = COLOURS[y]
        if not numbers.is_missing(row["diff_low"]):
            axis.plot([row["diff_low"], row["diff_high"]], [y, y], color=colour, alpha=0.65)
        axis.plot([row["difference"]], [y], "o", color=colour)
    axis.set_yticks(range(len(present)), present)
    axis.set_ylim(len(present) - 0.5, -0.5)
    axis.tick_params(labelsize=9)
    axis.margins(x=0.15)
    axis.grid(True, axis="x")


def headline(record: SecondRecord, made: dict[str, Table]) -> str:
    """One sentence for an index."""
    table = made["eval_results"]
    n = table.frame["n"].max()
    parts = [
        f"{condition}: ROUGE-L {numbers.estimate(difference_of(row))} against the base"
        for condition, *_ in verdicts(table)
        for row in [table.row(condition=condition, metric="rougel")]
    ]
    return f"{n} examples; {'; '.join(parts) or 'the base alone'}"


def limitations(record: SecondRecord, made: dict[str, Table]) -> list[str]:
    """What this evaluation cannot show, from its own numbers."""
    frame = made["eval_results"].frame
    n, lines = int(frame["n"].max()), []
    if n < FEW:
        lines.append(f"Few examples: {n} (table Results).")
    groups = int(frame["groups"].max())
    if groups < FEW_GROUPS and n:
        lines.append(
            f"Few groups: the {n} examples are of {groups} (table Results); intervals over so few "
            "are too narrow."
        )
    cut = record.manifest["context_cut"]
    if cut["examples"]:
        lines.append(
            f"Retrieved context was cut to fit in {cut['examples']} examples, by {cut['tokens']} "
            "tokens in all."
        )
    compared = int(frame["diff_low"].notna().sum())
    if compared:
        lines.append(
            f"{compared} differences are shown at 95 %: about "
            f"{numbers.number(round((1 - CONFIDENCE) * compared, 1))} of them would leave out zero "
            "by chance if nothing differed."
        )
    fewer = frame[(frame["condition"] == BASE) & (frame["n"] < n)]
    lines += [
        f"{METRICS[row['metric']].label} could be measured on {row['n']} of {n} examples: the "
        "other references have too few words for it."
        for row in fewer.to_dict("records")
    ]
    lines.append(
        "BLEU and ROUGE count words shared with one reference; a right answer in other words "
        "scores low. ROUGE sees Latin letters and digits only."
    )
    return lines
