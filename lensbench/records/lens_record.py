"""A lens record, with what everybody asks of it: the plain questions, and curves over layers."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from lensbench.prompts.prompt import LINKS
from lensbench.records.record import Record
from lensbench.records.schema.lens import MILESTONES


class LensRecord(Record):
    """What a lens read of one model over a prompt set."""

    @property
    def lenses(self) -> list[str]:
        """The lenses that were read, in the order of the settings."""
        return list(self.manifest["settings"]["lenses"])

    @property
    def main_lens(self) -> str:
        """The lens of the headline numbers: `final`, unless the run skipped it."""
        return "final" if "final" in self.lenses else self.lenses[0]

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """All prompts, by prompt_id."""
        return self.table("prompts").set_index("prompt_id")

    @property
    def base_prompts(self) -> pd.DataFrame:
        """The plain questions: no control, paraphrase or reverse."""
        return self.prompts[self.prompts[list(LINKS)].isna().all(axis=1)]

    @cached_property
    def milestones(self) -> pd.DataFrame:
        """Milestones; depths are taken from the layers, for verdicts rest on them."""
        frame = self.table("milestones").copy()
        for name in MILESTONES:
            frame[f"{name}_depth"] = frame[f"{name}_layer"].astype(float) / self.n_layers
        return frame

    def milestones_of(self, lens: str, prompts: pd.Index) -> pd.DataFrame:
        """Milestones of some prompts by one lens, by prompt_id, in their order."""
        rows = self.milestones[self.milestones["lens"] == lens].set_index("prompt_id")
        return rows.reindex(prompts.intersection(rows.index))

    @cached_property
    def at_last(self) -> pd.DataFrame:
        """The lens at each prompt's last position: at the embedding and after each block."""
        rows = self.table("lens", filters=[("is_last", "=", True), ("site", "!=", "resid_mid")])
        return rows.assign(answer_place=answer_place(rows))

    def by_layer(self, column: str, prompts: pd.Index, lens: str) -> pd.DataFrame:
        """A column at the last position as prompt x layer (0 = embedding); NaN where it is null.

        Prompts come sorted.
        """
        rows = self.at_last[(self.at_last["lens"] == lens)]
        rows = rows[rows["prompt_id"].isin(prompts)]
        return rows.pivot(index="prompt_id", columns="layer", values=column).sort_index()


def answer_place(rows: pd.DataFrame) -> pd.Series:
    """The answer's rank with all that tie with it before it: what "at rank 1" goes by."""
    return rows["answer_rank"] + rows["answer_ties"].fillna(0)
