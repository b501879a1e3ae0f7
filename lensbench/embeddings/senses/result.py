"""`senses`: at which layer of a model the senses of a word part, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from lensbench.embeddings.geometry import CENTRED
from lensbench.embeddings.senses.measured import TRAINED, UNTRAINED, Reading, read_senses
from lensbench.embeddings.senses.sentences import SHIPPED, load_senses
from lensbench.embeddings.senses.states import Reader, placed
from lensbench.errors import InputProblems, Problem
from lensbench.models.readable import load_readable
from lensbench.records.engine import Job
from lensbench.records.schema.text.embeddings import SENSES
from lensbench.stats.words import MEASURES, over_words

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_KEYS = ["condition", "correction", "split", "layer"]


@dataclass(frozen=True, eq=False)
class SensesResult:
    """How far the senses of words are apart at each layer, beside words of one sense.

    `table` follows the table `senses` (records/schema/text/embeddings.py); `problems` are sentences
    that were left out.
    """

    model: str
    table: pd.DataFrame
    problems: list[Problem]

    def to_pandas(self) -> pd.DataFrame:
        """One row per condition x word x split x layer x correction."""
        return self.table

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per condition x correction x split x layer: means over words, 95 % intervals.

        An interval is NaN where there are too few words for one.
        """
        rows = []
        for place, own in self.table.groupby(_KEYS, sort=False):
            row = {**dict(zip(_KEYS, place, strict=True)), "depth": own["depth"].iloc[0]}
            for measure in MEASURES:
                row |= over_words(own[measure], measure).columns(measure)
            rows.append(row | {"n_words": len(own)})
        ends = [f"{measure}_{end}" for measure in MEASURES for end in ("low", "high")]
        return pd.DataFrame(rows).astype(dict.fromkeys([*MEASURES, *ends], float))

    def plot(self, measure: str = "accuracy", correction: str = CENTRED) -> Figure:
        """The means by layer, a curve for each kind of words; dashed: untrained."""
        import plotly.express as px

        own = self.layers[self.layers["correction"] == correction]
        mean = own[measure]
        return px.line(
            own.assign(above=own[f"{measure}_high"] - mean, below=mean - own[f"{measure}_low"]),
            x="layer",
            y=measure,
            color="split",
            line_dash="condition",
            error_y="above",
            error_y_minus="below",
            title=f"{self.model}: {measure}, {correction}",
        )

    def __repr__(self) -> str:
        own = self.layers[self.layers["correction"] == CENTRED]
        best = own[own["condition"] == TRAINED]
        lines = [f"SensesResult({self.model}: {self.table['word'].nunique()} words)"]
        for split, rows in best.groupby("split", sort=False):
            at = rows.iloc[int(rows["accuracy"].argmax())]
            lines.append(
                f"  {split}: told apart {at['accuracy']:.3f} at layer {at['layer']}, the most of "
                f"all layers (n = {at['n_words']} words)"
            )
        if self.problems:
            lines.append(f"  {len(self.problems)} skipped: see .problems")
        return "\n".join(lines)


def senses(
    model: Reader | str,
    sentences: str = SHIPPED,
    *,
    untrained: bool = True,
    batch_tokens: int = 512,
    seed: int = 0,
    device: str | None = None,
) -> SensesResult:
    """At which layer the senses of a word part, beside subjects of words of one sense.

    >>> lb.senses("smollm2-135m").plot()  # doctest: +SKIP

    Args:
        model: a causal model or a text encoder, by its name or loaded.
        sentences: the shipped ones, or a file of them (word, kind, group, sentence).
        untrained: read them once more with weights drawn anew, by `seed`.

    Raises InputProblems for a file that cannot be used, or where no sentence can be read;
    ModelError as `load_model`.
    """
    given = load_senses(sentences)
    reader = load_readable(model, device=device) if isinstance(model, str) else model
    items, problems = placed(reader, given.sentences, given.name)
    if not items:
        raise InputProblems(problems)
    reading = Reading(reader, given.sentences, items, batch_tokens, seed)
    conditions = (TRAINED, UNTRAINED) if untrained else (TRAINED,)
    parts = [read_senses(reading, Job(i, one)) for i, one in enumerate(conditions)]
    table = pd.concat([part.tables[SENSES.name].to_pandas() for part in parts], ignore_index=True)
    found = [*given.problems, *problems, *(problem for part in parts for problem in part.problems)]
    return SensesResult(reader.name, table, found)
