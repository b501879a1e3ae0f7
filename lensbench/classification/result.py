"""`classify`: labelled texts told apart by several methods, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lensbench.classification.accuracy import accuracy_rows
from lensbench.classification.examples import given_labelled, load_labelled
from lensbench.classification.measured import measure
from lensbench.classification.prepare import models_of, prepared
from lensbench.classification.spec import ClassifySpec
from lensbench.errors import Problem
from lensbench.progress import Progress, Watch, ignore, within
from lensbench.records.engine import Job
from lensbench.records.schema.text.classification import ACCURACY, COSTS, PREDICTIONS

Given = str | Path | Sequence[tuple[str, str]]
_COSTS = ("n_trainable", "saved_bytes", "learn_wall_s", "test_wall_s", "memory_bytes", "n_cut")


@dataclass(frozen=True)
class Classified:
    """What each method tells of the same texts.

    `accuracy` has a row for each method, with intervals over examples and over seeds;
    `predictions` one for each tested text besides, `costs` one for each run.
    """

    data: str
    accuracy: pd.DataFrame
    predictions: pd.DataFrame = field(repr=False)
    costs: pd.DataFrame = field(repr=False)
    problems: list[Problem] = field(default_factory=list)

    @property
    def table(self) -> pd.DataFrame:
        """A row a method: its accuracy, and what it costs (the median over seeds)."""
        key = ["method", "model", "labels"]
        mean = self.costs.groupby(key, dropna=False)[list(_COSTS)].median().reset_index()
        rows = self.accuracy.assign(asked=self.accuracy["method"])
        rows["method"] = rows["method"].str.removesuffix("_calibrated")
        both = rows.merge(mean, how="left", on=key)
        return both.assign(method=both["asked"]).drop(columns="asked")


def classify(
    data: Given = "reviews",
    *,
    encoder: str = "all-minilm-l6-v2",
    causal: str | Sequence[str] = (),
    watch: Watch = ignore,
    **options: Any,
) -> Classified:
    """Train an encoder in several ways, prompt causal models, and test all on the same texts.

    >>> lb.classify("reviews", methods=["probe", "lora"], seeds="0-2").table  # doctest: +SKIP

    Args:
        data: reviews, pang-lee, a .csv or .jsonl with text and label, or pairs of these.
        encoder: BERT, DistilBERT, RoBERTa or ELECTRA, by alias, hub name or folder.
        causal: models to prompt, if any.
        options: further fields of `ClassifySpec`, such as methods, seeds, epochs, shots.

    Raises InputProblems with all that is wrong with the options, the texts or the labels, and for a
    decoder where an encoder is needed or the other way round; ModelError, MissingExtraError.
    """
    asked: dict[str, Any] = {"encoder": encoder, "causal": causal, **options}
    spec = ClassifySpec(**asked)
    found = load_labelled(str(data)) if isinstance(data, str | Path) else given_labelled(data)
    context = prepared(spec, found, models_of(spec), watch=within(found.name, watch))
    parts, runs = [], context.runs
    for number, run in enumerate(runs):
        watch(Progress(found.name, number, len(runs), "runs", run.method))
        parts.append(measure(context, Job(number, run)))
    watch(Progress(found.name, len(runs), len(runs), "runs"))
    predictions, costs = (
        pa.concat_tables(part.tables[table.name] for part in parts).to_pandas()
        for table in (PREDICTIONS, COSTS)
    )
    accuracy = ACCURACY.of_rows(accuracy_rows(predictions)).to_pandas()
    return Classified(found.name, accuracy, predictions, costs, found.problems)
