"""The catalogue of tables: every number in a report is a cell of one of these, kept as CSV too."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensbench.escape import csv_cell
from lensbench.report.lens import anomalies, comparison, contrasts, curves, headlines, sensitivity
from lensbench.report.load import Record
from lensbench.stats.bootstrap import Estimate


@dataclass(frozen=True, eq=False)
class Table:
    """A table with its title and a note on who is counted. Cells: text, numbers or Estimates."""

    name: str  # of its CSV file
    title: str
    frame: pd.DataFrame
    note: str = ""

    def row(self, **labels: object) -> dict[str, Any]:
        """The one row with these labels, as column -> cell: how prose refers to a number."""
        frame = self.frame
        for column, label in labels.items():
            frame = frame[frame[column] == label]
        assert len(frame) == 1, f"table {self.name}: {len(frame)} rows for {labels}"
        return {str(column): cell for column, cell in frame.iloc[0].items()}


# name, title, how it is made, note: in the order of the report. To add a table: one entry.
_TABLES: tuple[tuple[str, str, Callable[[Record], pd.DataFrame], str], ...] = (
    (
        "coverage",
        "Coverage",
        headlines.coverage_table,
        "Answered: the model's own output has the answer's first token at rank 1.",
    ),
    (
        "late_binding",
        "Late binding",
        headlines.verdict_table,
        "The claim: answers emerge at 75-85 % of depth. Inside or outside only when the whole "
        "interval of the median is.",
    ),
    (
        "milestones",
        "Milestones",
        headlines.milestones_table,
        "Base prompts that the model answers. Depth is layer / number of layers; 0 % is the "
        "embedding. The median is over the prompts that reach the milestone (count).",
    ),
    (
        "depth_curves",
        "Depth curves",
        curves.depth_curves,
        "Means over all base prompts at the last position.",
    ),
    (
        "emergence",
        "Emergence",
        curves.emergence_curve,
        "Shares of all base prompts, answered or not; controls ask about another subject.",
    ),
    (
        "relations",
        "Relations",
        headlines.relations_table,
        "Base prompts; depths over the answered ones. Within a relation each prompt stands "
        "for itself in the interval.",
    ),
    (
        "reverse",
        "Forward and reverse",
        contrasts.reverse_table,
        "Each reverse question with its base question; the depth differences are medians over "
        "pairs of which both are answered.",
    ),
    (
        "paraphrases",
        "Paraphrases",
        contrasts.paraphrase_table,
        "Each paraphrase with its base prompt (a base prompt counts once per paraphrase).",
    ),
    (
        "category",
        "Category before instance",
        contrasts.category_table,
        "Base prompts with a category word that does not stand in the prompt. Before: in the "
        "top 10 at an earlier layer than the answer, or at all where the answer never is. "
        "Null: the category word of another relation, the chance level.",
    ),
    (
        "category_curve",
        "Category and answer by layer",
        curves.category_curve,
        "Shares of the base prompts of table Category before instance.",
    ),
    (
        "copying",
        "Copying",
        curves.copying_curve,
        "Base prompts. Chance: the layer's top tokens dealt out to the prompts at random, "
        "averaged over all deals.",
    ),
    (
        "controls",
        "Controls",
        contrasts.controls_table,
        "The base prompt's answer, looked for after the same template with another subject: "
        "should be rare.",
    ),
    (
        "anomaly_share",
        "Anomalies",
        anomalies.share_table,
        "Cells at 25-75 % of depth whose top token is neither in the prompt, nor the answer, "
        "nor the category, nor frequent (on top for 5 % of the layer's prompts, at least 2, "
        "or without a letter or digit). Chance: the same count after the layer's top tokens "
        "are dealt out to the prompts at random, averaged over all deals.",
    ),
    (
        "anomalies",
        "Anomalous cells",
        anomalies.cells_table,
        "The most confident first.",
    ),
    (
        "sensitivity",
        "Sensitivity to the lens",
        sensitivity.sensitivity_table,
        "Each headline by each lens. Answered share: answered by the model and read by that "
        "lens at the last layer.",
    ),
)


def record_tables(record: Record) -> dict[str, Table]:
    """All tables of one model, by name, in the order of the report."""
    return {name: Table(name, title, make(record), note) for name, title, make, note in _TABLES}


def comparison_tables(
    records: Sequence[Record], own: dict[str, dict[str, Table]]
) -> dict[str, Table]:
    """The tables of the cross-model report; `own` holds each model's tables."""
    frames = {m: {name: table.frame for name, table in t.items()} for m, t in own.items()}
    tables = [
        Table(
            "models",
            "Models",
            comparison.models_table(records),
            "Base prompts of each model's own record; depths are medians over answered prompts.",
        ),
        Table(
            "pairs",
            "Paired differences",
            comparison.pairs_table(records),
            "Second minus first, in points of per cent, over the base prompts that both models "
            "were asked; depth differences are medians over the prompts that both answer.",
        ),
        Table(
            "curves",
            "Curves on equal relative depth",
            comparison.grid_table(frames),
            "Means over each model's base prompts, interpolated linearly between layers.",
        ),
    ]
    return {table.name: table for table in tables}


_QUOTED_OR_END = re.compile(r'("(?:[^"]|"")*")|\r\n')


def to_csv(table: Table) -> bytes:
    """The table as CSV: an Estimate becomes value, low, high, n, clusters and reason columns."""
    text = io.StringIO()
    # With the line ends of RFC 4180 a lone "\r" in a cell is quoted too; with "\n" it is not.
    _expanded(table.frame).to_csv(text, index=False, lineterminator="\r\n", float_format="%.9g")
    rows = _QUOTED_OR_END.sub(lambda found: found[1] or "\n", text.getvalue())
    return rows.encode("utf-8", errors="backslashreplace")


def _expanded(frame: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, list[object]] = {}
    for name in frame:
        cells = frame[name].tolist()
        if any(isinstance(cell, Estimate) for cell in cells):
            for part, field in _PARTS.items():
                columns[f"{name}{part}"] = [getattr(cell, field, None) for cell in cells]
        else:
            columns[str(name)] = [csv_cell(c) if isinstance(c, str) else c for c in cells]
    return pd.DataFrame(columns)


_PARTS = {
    "": "value",
    "_low": "low",
    "_high": "high",
    "_n": "n",
    "_clusters": "n_clusters",
    "_reason": "reason",
}


def layers_shown(table: Table, steps: int = 11) -> pd.DataFrame:
    """About `steps` rows of a curve at even depths, ends included: enough to read in text."""
    n = len(table.frame)
    rows = np.linspace(0, max(n - 1, 0), min(steps, n)).round().astype(int)
    return table.frame.iloc[np.unique(rows)]
