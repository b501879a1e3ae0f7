"""A lens record, with what everybody asks of it: the plain questions, and curves over layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lensbench.prompts.prompt import LINKS
from lensbench.records.lens.kind import OWN, PRECISION, UNTOLD, HeldOut, LensKind, headline_lens
from lensbench.records.record import Record
from lensbench.records.schema.lens import MILESTONES, NOT_ASKED, NOT_MEASURED


class LensRecord(Record):
    """What a lens read of one model over a prompt set."""

    @property
    def lenses(self) -> list[str]:
        """The lenses that were read, in the order of the settings."""
        return list(self.manifest["settings"]["lenses"])

    @property
    def main_lens(self) -> str:
        """The lens of the headline numbers: that of the lowest held-out KL at this model.

        `final` where no fitted lens says how far it is from the model (the first where the run
        skipped `final`).
        """
        return headline_lens(self.lenses, self.held_out)

    @cached_property
    def held_out(self) -> dict[str, HeldOut]:
        """Held-out figures of the fitted lenses that were fitted to this model as it ran here."""
        told = self.manifest.get("lenses") or {}
        return {
            name: HeldOut(**told[name]["held_out"])
            for name in self.lenses
            if name in told and told[name].get("held_out") and self._fitted_here(told[name])
        }

    def _fitted_here(self, kind: Mapping[str, Any]) -> bool:
        there = kind.get("fitted_to") or {}
        return all(there.get(key) == self.model.get(key) for key in PRECISION)

    @property
    def headline_lenses(self) -> list[str]:
        """Those that may stand in a headline, the main one first, then `final`, then fitted ones.

        At the last layer each of them is the model's own output.
        """
        fitted = [name for name in self.lenses if self._is_fitted_output(self.lens_kind(name))]
        plain = ["final"] if "final" in self.lenses else []
        return list(dict.fromkeys([self.main_lens, *plain, *fitted]))

    @staticmethod
    def _is_fitted_output(kind: LensKind) -> bool:
        return bool(kind.fitted and kind.output)

    def lens_kind(self, lens: str | None = None) -> LensKind:
        """What a lens (None: the main one) is: as the manifest says, else as lensbench has it."""
        name = lens or self.main_lens
        told = self.manifest.get("lenses")
        if told is None:
            return OWN.get(name, UNTOLD)
        return LensKind.of(told[name]) if name in told else UNTOLD

    @property
    def imported(self) -> bool:
        """Whether somebody else's tool measured it."""
        return bool(self.manifest.get("measured"))

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """All prompts, by prompt_id."""
        return self.table("prompts").set_index("prompt_id")

    @cached_property
    def base_prompts(self) -> pd.DataFrame:
        """The plain questions: no control, paraphrase or reverse."""
        return self.prompts[self.prompts[list(LINKS)].isna().all(axis=1)]

    @cached_property
    def answered(self) -> pd.DataFrame:
        """The base prompts that have an answer."""
        return self.base_prompts[has_answer(self.base_prompts)]

    @property
    def unanswered(self) -> pd.DataFrame:
        """The base prompts that have none: nothing can be asked about an answer there."""
        return self.base_prompts[~has_answer(self.base_prompts)]

    @cached_property
    def milestones(self) -> pd.DataFrame:
        """Milestones; depths are taken from the layers, for verdicts rest on them.

        `{name}_at` is the layer, infinite where the milestone never comes, and NaN where it was not
        measured or could not be asked. A milestone of which a row has neither layer nor reason has
        lost a column: then all of it is unknown.
        """
        frame = self.table("milestones").copy()
        for name in MILESTONES:
            layer, reason = frame[f"{name}_layer"].astype(float), frame[f"{name}_reason"]
            frame[f"{name}_depth"] = layer / self.n_layers
            at = layer.where(layer.notna() | ~is_never(reason), np.inf)
            frame[f"{name}_at"] = at * np.nan if (layer.isna() & reason.isna()).any() else at
        return frame

    def milestones_of(self, lens: str, prompts: pd.Index) -> pd.DataFrame:
        """Milestones of some prompts by one lens, by prompt_id, in their order."""
        rows = self._milestones_by_lens.get(lens)
        if rows is None:
            rows = self.milestones.iloc[:0].set_index("prompt_id")
        return rows.reindex(prompts.intersection(rows.index))

    @cached_property
    def _milestones_by_lens(self) -> dict[str, pd.DataFrame]:
        """By prompt_id; a report asks for them a hundred times."""
        by_lens = self.milestones.groupby("lens", sort=False)
        return {str(lens): rows.set_index("prompt_id") for lens, rows in by_lens}

    def guessed(self, lens: str, prompts: pd.Index, rank: int) -> pd.Series:
        """Of each prompt, whether a control of a lens reads its answer at a rank or better.

        Then the lens counts for nothing there (records/schema/lens.py: READ_AT). False where the
        lens has no control.
        """
        rows = self.at_last(["answer_guess_rank"], lens)
        best = rows.groupby("prompt_id")["answer_guess_rank"].min().astype(float)
        return best.reindex(prompts) <= rank

    def at_last(self, columns: Sequence[str], lens: str | None = None) -> pd.DataFrame:
        """Columns at each prompt's last position: at the embedding and after each block.

        Beside `prompt_id`, `lens` and `layer`. Of one lens, or of all. Read from disk each time,
        and of these columns alone: a run over thousands of prompts does not fit in memory whole.
        """
        return self.arrow_at_last(columns, lens).to_pandas()

    def arrow_at_last(
        self, columns: Sequence[str], lens: str | None = None, layer: int | None = None
    ) -> pa.Table:
        """The same as Arrow has it; after a `layer` alone, where one is named."""
        wanted = list(dict.fromkeys(["prompt_id", "lens", "layer", *columns]))
        filters: list[tuple[str, str, Any]] = [("is_last", "=", True), ("site", "!=", "resid_mid")]
        filters += [] if lens is None else [("lens", "=", lens)]
        filters += [] if layer is None else [("layer", "=", layer)]
        return self.arrow("lens", wanted, filters)

    def at_output(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns of the main lens after the last block, at each prompt's last position."""
        return self.arrow_at_last(columns, self.main_lens, self.n_layers).to_pandas()

    def by_layer(self, column: str, prompts: pd.Index, lens: str) -> pd.DataFrame:
        """A column at the last position as prompt x layer (0 = embedding); NaN where it is null.

        `answer_place` is the answer's rank with all that tie with it before it. Prompts come
        sorted.
        """
        if column != "answer_place":
            return _pivoted(self.at_last([column], lens), column, prompts)
        rows = self.at_last(["answer_rank", "answer_ties"], lens)
        return _pivoted(rows.assign(answer_place=answer_place(rows)), column, prompts)

    def first_by_layer(self, column: str, prompts: pd.Index, lens: str) -> pd.DataFrame:
        """As `by_layer`, of the first of each cell's list, such as the top token."""
        rows = self.arrow_at_last([column], lens)
        first = _first_of_each(rows[column])
        return _pivoted(rows.set_column(3, column, first).to_pandas(), column, prompts)


def _pivoted(rows: pd.DataFrame, column: str, prompts: pd.Index) -> pd.DataFrame:
    rows = rows[rows["prompt_id"].isin(prompts)]
    return rows.pivot(index="prompt_id", columns="layer", values=column).sort_index()


def _first_of_each(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """The first item of each list; null of none."""
    empty = pc.equal(pc.list_value_length(lists), 0)
    return pc.list_element(pc.if_else(empty, pa.scalar(None, lists.type), lists), 0)


def answer_place(rows: pd.DataFrame) -> pd.Series:
    """The answer's rank with all that tie with it before it: what "at rank 1" goes by."""
    return rows["answer_rank"].astype(float) + rows["answer_ties"].astype(float).fillna(0)


def has_answer(prompts: pd.DataFrame) -> pd.Series:
    """Of each prompt, whether it has an answer, as text or as a token."""
    return prompts["answer"].notna() | prompts["answer_id"].notna()


def stands_in_prompt(prompt: Mapping[Any, Any], category: str) -> bool:
    """Whether a category word is in the prompt: as a token, or where tokens are not known as text.

    Args:
        prompt: a row of the table `prompts`.
        category: "category" or "null_category".
    """
    token, own, word = prompt[f"{category}_id"], prompt["token_ids"], prompt[category]
    if pd.isna(token) or not isinstance(own, list | np.ndarray):
        return isinstance(word, str) and word.casefold() in str(prompt["prompt"]).casefold()
    return token in list(own)


def is_never(reason: pd.Series) -> pd.Series:
    """Whether a milestone without a layer never comes; else nobody looked, or could."""
    text = reason.fillna(NOT_MEASURED).astype(str)
    return ~text.str.startswith(NOT_MEASURED) & ~text.isin(NOT_ASKED)
