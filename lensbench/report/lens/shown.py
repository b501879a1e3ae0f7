"""What the page of lens records shows of one model by one lens: readings, curves, means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from lensbench.escape import visible
from lensbench.records.lens.kind import OWN, LensKind
from lensbench.records.lens.record import answer_place, has_answer
from lensbench.records.schema.lens import GUESSED, NO_ANSWER, NOT_MEASURED
from lensbench.report.kit.numbers import is_missing, number
from lensbench.report.kit.table import Table
from lensbench.report.kit.views import Cells, Line, Nothing, Tokens, View, by_depth, of_values
from lensbench.report.lens.headlines import EMERGENCE
from lensbench.report.lens.views import MEASURES

_UNMEASURED = "This prompt was not measured on this model."
SHOWN = (  # of the table `lens`
    *("prompt_id", "site", "layer", "position", "is_last", "token", *MEASURES),
    *("answer_rank", "answer_ties", "top_tokens", "top_probs"),
)


@dataclass(frozen=True, eq=False)
class Shown:
    """One model's readings by one lens, as the page takes them: of a record, or of one result."""

    name: str
    n_layers: int
    prompts: pd.DataFrame  # the plain questions that can be picked, by prompt_id
    rows: pd.DataFrame  # theirs, at the embedding and after each block: the columns SHOWN
    milestones: pd.DataFrame  # by prompt_id; may be empty
    tables: Mapping[str, Table]  # for the means; may be empty
    kind: LensKind = OWN["final"]
    gate: str = ""
    model: str = ""  # whose readings they are; `name` may have the lens too

    @cached_property
    def by_prompt(self) -> dict[Any, pd.DataFrame]:
        """The rows of each prompt."""
        return dict(list(self.rows.groupby("prompt_id")))

    def last(self, item: str) -> pd.DataFrame:
        """A prompt's rows at its last position, by layer."""
        rows = self.by_prompt[item]
        return rows[rows["is_last"]].set_index("layer")

    @cached_property
    def cells(self) -> dict[str, Cells]:
        """The cells of each prompt, once asked for."""
        return {}

    def tokens(self, item: str, colour: str) -> View:
        """A prompt's top tokens, coloured by a measure."""
        if item not in self.by_prompt:
            return Nothing(_UNMEASURED)
        if item not in self.cells:
            self.cells[item] = cells_of(self.by_prompt[item])
        if not any(len(tokens) for row in self.cells[item].top for tokens in row):
            return Nothing(f"Top tokens: {NOT_MEASURED}.")
        return Tokens(self.cells[item], MEASURES, colour)

    def line(self, item: str, column: str) -> Line:
        """One prompt's curve at its last position."""
        places = {k / self.n_layers: f"layer {k}" for k in range(self.n_layers + 1)}
        if item not in self.by_prompt:
            return Line(self.name, of_values([None] * len(places), _UNMEASURED), places=places)
        rows = self.last(item)
        values = answer_place(rows) if column == "answer_rank" else rows[column]
        own = values.reindex(range(self.n_layers + 1)).astype(float)
        if column == "answer_rank":
            own = own.eq(1).astype(float).where(own.notna())
        of_answer = column.startswith("answer") and not self.has_answer(item)
        return Line(
            self.name, of_values(own, NO_ANSWER if of_answer else NOT_MEASURED), places=places
        )

    def has_answer(self, item: str) -> bool:
        """Whether the prompt has one."""
        return item in self.prompts.index and bool(has_answer(self.prompts.loc[[item]]).iloc[0])

    def mean(self, table: str, column: str) -> Line | None:
        """The mean over the base prompts, from the tables."""
        if table not in self.tables:
            return None
        frame = self.tables[table].frame
        if frame.empty and "without_answer_curves" in self.tables:
            frame = self.tables["without_answer_curves"].frame
        if column not in frame:
            return None
        return Line(
            f"mean, {self.name}",
            list(frame[column]),
            places=by_depth(frame),
        )

    def summary(self, item: str) -> tuple[str, str]:
        """What the model itself says, and when the answer emerged."""
        if item not in self.by_prompt:
            return self.name, _UNMEASURED
        last: dict[Any, Any] = self.last(item).loc[self.n_layers].to_dict()
        tops, probs = last["top_tokens"], last["top_probs"]
        says = f"top token {NOT_MEASURED}"
        if not is_missing(tops):
            says = f"says {visible(tops[0])!r}"
            says += "" if is_missing(probs) else f" (p = {number(float(probs[0]), 'prob')})"
        return self.name, "; ".join([says, *self._emergence(item)])

    def _emergence(self, item: str) -> list[str]:
        if item not in self.milestones.index or is_missing(
            self.milestones.at[item, "top1_correct"]
        ):
            return []
        row: dict[Any, Any] = self.milestones.loc[item].to_dict()
        found = ["top-1 correct" if row["top1_correct"] else "not top-1 correct"]
        for name, words in EMERGENCE.items():
            found.append(f"{words}: {_when(row[f'{name}_at'], row[f'{name}_reason'])}")
        return found


def _when(at: float, reason: object) -> str:
    if is_missing(at):
        return GUESSED if reason == GUESSED else NOT_MEASURED
    return "never" if math.isinf(at) else f"layer {at:.0f}"


def cells_of(rows: pd.DataFrame) -> Cells:
    """One prompt's rows by one lens, at the embedding and after each block, as a grid."""
    rows = rows[rows["site"] != "resid_mid"].assign(answer_place=answer_place(rows))
    rows["position"] = rows["position"].fillna(0)  # not known: the one there is
    places = sorted(rows["position"].unique())
    by_layer = rows.set_index("position").groupby("layer", sort=True)
    layers = {  # some may have been read at fewer positions
        int(group["layer"].iloc[0]): group.reindex(places) for _, group in by_layer
    }
    return Cells(
        layers=list(layers),
        tokens=_tokens(rows.drop_duplicates("position").sort_values("position")),
        top=[
            [() if is_missing(c) else c for c in group["top_tokens"]] for group in layers.values()
        ],
        probs=[
            [() if is_missing(c) else c for c in group["top_probs"]] for group in layers.values()
        ],
        rank=[group["answer_place"].astype(float).tolist() for group in layers.values()],
        measures={name: [group[name].tolist() for group in layers.values()] for name in MEASURES},
    )


def _tokens(rows: pd.DataFrame) -> dict[int, str]:
    """The tokens of the positions; where one is not known, its place."""
    return {
        int(place): f"#{place:.0f}" if is_missing(token) else token
        for place, token in zip(rows["position"], rows["token"], strict=True)
    }
