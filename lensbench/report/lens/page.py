"""The interactive page of lens records: every prompt's heat maps, its curves and the means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from lensbench.escape import visible
from lensbench.records.lens_record import LensRecord, answer_place
from lensbench.report.kit.numbers import is_missing, number
from lensbench.report.kit.page import (
    Chart,
    Facts,
    Page,
    Picker,
    chart,
    items,
    page_html,
)
from lensbench.report.kit.table import Table
from lensbench.report.kit.views import (
    Axis,
    Cells,
    Line,
    Lines,
    Nothing,
    Texts,
    Tokens,
    View,
    by_depth,
    of_values,
)
from lensbench.report.lens.headlines import EMERGENCE
from lensbench.report.lens.views import DEPTH, MEASURES, blocks_only

_UNMEASURED = "This prompt was not measured on this model."
_RANK1 = Axis("answer at rank 1", percent=True, flag="at rank 1")


@dataclass(frozen=True, eq=False)
class Shown:
    """One model's readings by one lens, as the page takes them: of a record, or of one result."""

    name: str
    n_layers: int
    prompts: pd.DataFrame  # the plain questions, by prompt_id
    rows: pd.DataFrame  # at the embedding and after each block
    milestones: pd.DataFrame  # by prompt_id; may be empty
    tables: Mapping[str, Table]  # for the means; may be empty

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
        return Line(self.name, of_values(own, "the prompt has no answer"), places=places)

    def mean(self, table: str, column: str) -> Line | None:
        """The mean over the base prompts, from the tables."""
        if table not in self.tables:
            return None
        frame = self.tables[table].frame
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
        token, prob = visible(last["top_tokens"][0]), number(float(last["top_probs"][0]), "prob")
        return self.name, "; ".join([f"says {token!r} (p = {prob})", *self._emergence(item)])

    def _emergence(self, item: str) -> list[str]:
        if item not in self.milestones.index or is_missing(
            self.milestones.at[item, "top1_correct"]
        ):
            return []
        row: dict[Any, Any] = self.milestones.loc[item].to_dict()
        found = ["top-1 correct" if row["top1_correct"] else "not top-1 correct"]
        for name, words in EMERGENCE.items():
            layer = row[f"{name}_layer"]
            found.append(f"{words}: {'never' if is_missing(layer) else f'layer {int(layer)}'}")
        return found


def records_page(every: Mapping[str, LensRecord], own: Mapping[str, Mapping[str, Table]]) -> Page:
    """The page over lens records, by the names of their models; `own`: the tables of each."""
    shown = []
    for name, record in every.items():
        rows, marks = record.table("lens"), record.milestones
        rows = rows[(rows["lens"] == record.main_lens) & (rows["site"] != "resid_mid")]
        marks = marks[marks["lens"] == record.main_lens].set_index("prompt_id")
        shown.append(Shown(name, record.n_layers, record.base_prompts, rows, marks, own[name]))
    return lens_page(shown)


def reading_page(
    name: str, prompts: pd.DataFrame, rows: pd.DataFrame, gate_kl_bits: float
) -> bytes:
    """The page of a reading that is no record: a result's prompts and rows, and how exact it is."""
    lens = rows["lens"].iloc[0]
    rows = rows[(rows["lens"] == lens) & (rows["site"] != "resid_mid")]
    prompts, n_layers = prompts.set_index("prompt_id"), int(rows["layer"].max())
    shown = Shown(name, n_layers, prompts, rows, pd.DataFrame(), {})
    exact = f"last layer = the model within {gate_kl_bits:.1e} bits"
    return page_html(
        lens_page([shown]), Facts(f"{name}: {exact}", [("lens", lens), ("gate", exact)])
    )


def lens_page(models: Sequence[Shown]) -> Page:
    """Every prompt's texts, heat maps and curves, and the means over all."""
    prompts = _prompts(models)
    prompt, colour = (
        _prompt_picker(models, prompts),
        Picker("Colour", {"": "top token", **MEASURES}),
    )
    sentence = (
        "Each row of a heat map is a layer read through the model's own final norm and head (layer "
        "0 is the embedding), each cell shows the top token, with spaces as ·; an orange frame "
        "marks the answer at rank 1. Click a cell to keep its numbers. Curves: this prompt's at "
        "its last position; dotted, the mean over all with its 95 % interval over relations."
    )
    size: Literal["", "wide"] = "wide" if len(models) == 1 else ""
    charts = [
        chart("This prompt", "", [prompt], lambda item: _texts(models, prompts, item), size="wide"),
        *(chart(m.name, "", [prompt, colour], m.tokens, size=size) for m in models),
        *(
            _curves(models, prompt, ("depth_curves", column), column, Axis(title))
            for column, title in MEASURES.items()
        ),
        _curves(models, prompt, ("emergence", "answer_rank1_share"), "answer_rank", _RANK1),
    ]
    names = ", ".join(model.name for model in models)
    return Page(f"When does it know? {names}", sentence, (prompt, colour), charts)


def _prompts(models: Sequence[Shown]) -> pd.DataFrame:
    """The prompts to choose from, by id: recorded at all positions first, then by relation."""
    found = pd.concat([model.prompts for model in models])
    found = found[~found.index.duplicated()]
    whole = {i for m in models for i in m.rows.loc[~m.rows["is_last"], "prompt_id"]}
    first = found.index.isin(whole)
    return pd.concat([found[first], found[~first].sort_values("relation", kind="stable")])


def _prompt_picker(models: Sequence[Shown], prompts: pd.DataFrame) -> Picker:
    """Found by text, and filtered by relation and by whether a model is top-1 correct."""
    options = {str(item): f"{row['prompt']} → {_answer(row)}" for item, row in prompts.iterrows()}
    facets = {"relation": {str(item): str(name) for item, name in prompts["relation"].items()}}
    for model in models:
        name = "top-1" if len(models) == 1 else f"top-1 of {model.name}"
        if "top1_correct" in model.milestones:
            facets[name] = top1_facet(model.milestones["top1_correct"])
    return items("Prompt", options, facets)


def top1_facet(correct: pd.Series) -> dict[str, str]:
    """Of every prompt, whether a model is top-1 correct."""
    told = correct.dropna().items()
    return {str(item): "correct" if right else "not correct" for item, right in told}


def _answer(prompt: Any) -> str:
    return "no answer" if is_missing(prompt["answer"]) else str(prompt["answer"])


def cells_of(rows: pd.DataFrame) -> Cells:
    """One prompt's rows by one lens, at the embedding and after each block, as a grid."""
    rows = rows[rows["site"] != "resid_mid"].sort_values(["layer", "position"])
    layers = [group for _, group in rows.groupby("layer", sort=True)]
    last = layers[-1]
    return Cells(
        layers=[int(group["layer"].iloc[0]) for group in layers],
        tokens=dict(zip(last["position"], last["token"], strict=True)),
        top=[list(group["top_tokens"]) for group in layers],
        probs=[list(group["top_probs"]) for group in layers],
        rank=[group["answer_rank"].tolist() for group in layers],
        measures={name: [group[name].tolist() for group in layers] for name in MEASURES},
    )


def _texts(models: Sequence[Shown], prompts: pd.DataFrame, item: str) -> Texts:
    row = prompts.loc[item]
    asked = [("prompt", str(row["prompt"])), ("answer", _answer(row))]
    if not is_missing(row["relation"]):
        asked.append(("relation", str(row["relation"])))
    return Texts([*asked, *(model.summary(item) for model in models)])


def _curves(
    models: Sequence[Shown], prompt: Picker, mean: tuple[str, str], column: str, y: Axis
) -> Chart:
    """A prompt's curve for each model over the means of all prompts, of a table's column."""
    known = [line for model in models if (line := model.mean(*mean))]
    under = Lines(DEPTH, y, {}, known) if known else None

    def view(item: str) -> View:
        lines = [model.line(item, column) for model in models]
        limits = blocks_only([*known, *lines]) if column == "kl_bits" else None
        return Lines(DEPTH, y, {}, lines, limits=limits)

    return chart(y.title, "", [prompt], view, under, size="small")
