"""The head view of kept patterns: what every head looks at, token by token (Vig 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt16

from lensbench.errors import InputProblems, Problem
from lensbench.records.schema.attention import WEIGHTINGS
from lensbench.report.kit.markdown import gate_row
from lensbench.report.kit.page import Chart, Facts, Page, Picker, chart, page_html
from lensbench.report.kit.views import UNKNOWN, HeadView, Looks, Nothing

MOST_WEIGHTS = 40_000_000  # of a page: about 10 MB
_MEAN = "mean"
_SENTENCE = (
    "Lines go from each token, on the left, to those on the right that it looks at; the stronger, "
    "the more. Point at a token for its own lines and numbers, click or tap to keep them. Lines "
    "below 3 % are drawn only then, those below 0.1 % never."
)


@dataclass(frozen=True, eq=False)
class Kept:
    """Kept patterns of one model, made ready for a page once and when they are asked for.

    `patterns` has the rows of that table, `prompts` those of its own, of one record.
    """

    patterns: pd.DataFrame
    prompts: pd.DataFrame
    _made: dict[tuple[str, str, int], Looks] = field(default_factory=dict)

    @cached_property
    def weightings(self) -> list[str]:
        """The weightings that the patterns can be shown by."""
        moved = not self.patterns["moved"].isna().any()
        return [name for name in WEIGHTINGS if name == "plain" or moved]

    @property
    def shown(self) -> dict[str, str]:
        """Id and text of the prompts that there is room for, in the record's order."""
        sizes = self.patterns["weights"].map(len).groupby(self.patterns["prompt_id"]).sum()
        sizes = sizes.reindex(self.prompts["prompt_id"]).dropna() * len(self.weightings)
        texts = dict(zip(self.prompts["prompt_id"], self.prompts["prompt"], strict=True))
        room, found = MOST_WEIGHTS, {}
        for item, size in sizes.items():
            if size <= room:
                room -= int(size)
                found[str(item)] = str(texts[item])
        return found

    @property
    def first(self) -> str | None:
        """The first kept prompt, in the record's order."""
        there = self.prompts["prompt_id"].isin(self.patterns["prompt_id"])
        return next(iter(self.prompts.loc[there, "prompt_id"]), None)

    def tokens(self, item: str) -> list[str]:
        """The tokens of a kept prompt."""
        return list(self.prompts.loc[self.prompts["prompt_id"] == item, "tokens"].iloc[0])

    @property
    def blocks(self) -> list[int]:
        """The blocks whose patterns are kept."""
        return sorted({int(block) for block in self.patterns["block"]})

    def squares(
        self, item: str, block: int, weighting: str = "plain"
    ) -> Float[np.ndarray, "head query key"]:
        """The patterns of a block's heads, 0 where none may look; NaN if a head moves nothing."""
        weights, n = self._weights(item, weighting, block), len(self.tokens(item))
        found = np.zeros((len(weights), n, n))
        found[:, *cells(n, weights.shape[1])] = weights
        return found

    def both_ways(self, item: str) -> bool:
        """Whether each of its tokens may look at every other."""
        weights = self.patterns.loc[self.patterns["prompt_id"] == item, "weights"].iloc[0]
        return len(weights) == len(self.tokens(item)) ** 2

    def view(self, item: str, block: str, head: str, weighting: str) -> HeadView | Nothing:
        """What one head looks at; the mean of a block's heads for `mean`."""
        if weighting not in self.weightings:
            return Nothing("The run was not asked for this weighting.")
        looks = self._looks(item, weighting, int(block))
        if head == _MEAN:
            return HeadView(looks, None)
        if int(head) >= len(looks.weights):
            return Nothing(f"block {block} has {len(looks.weights)} heads.")
        return HeadView(looks, int(head))

    def _looks(self, item: str, weighting: str, block: int) -> Looks:
        if (item, weighting, block) not in self._made:
            weights = thousandths(self._weights(item, weighting, block))
            self._made[item, weighting, block] = Looks(self.tokens(item), weights)
        return self._made[item, weighting, block]

    def _weights(self, item: str, weighting: str, block: int) -> Float[np.ndarray, "head cell"]:
        rows = self.patterns[
            (self.patterns["prompt_id"] == item) & (self.patterns["block"] == block)
        ].sort_values("head")
        weights = np.stack(rows["weights"].to_list()).astype(np.float64)
        if weighting == "moved":
            weights = moved(weights, np.stack(rows["moved"].to_list()))
        return weights


def cells(n_tokens: int, n_cells: int) -> tuple[Int[np.ndarray, " cell"], Int[np.ndarray, " cell"]]:
    """Query and key of each weight of a pattern that is kept.

    A query's keys are all tokens where there are n² weights, else itself and those before.
    """
    if n_cells == n_tokens**2:
        query, key = np.indices((n_tokens, n_tokens)).reshape(2, -1)
    else:
        query, key = np.tril_indices(n_tokens)
    return query, key


def moved(
    weights: Float[np.ndarray, "head cell"], lengths: Float[np.ndarray, "head key"]
) -> Float[np.ndarray, "head cell"]:
    """Weights times the length of what each token's value writes; every query's sum to 1 again."""
    query, key = cells(lengths.shape[1], weights.shape[1])
    weighted = weights * lengths[:, key]
    totals = np.add.reduceat(weighted, np.flatnonzero(key == 0), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing is moved at all: unknown
        shares: Float[np.ndarray, "head cell"] = weighted / totals[:, query]
    return shares


def thousandths(weights: Float[np.ndarray, "head cell"]) -> UInt16[np.ndarray, "head cell"]:
    """As a page holds them; what is no number is `UNKNOWN`."""
    known = np.isfinite(weights)
    return np.where(known, np.rint(1000 * np.where(known, weights, 0)), UNKNOWN).astype(np.uint16)


def weighting_picker(names: Iterable[str]) -> Picker:
    """Of these weightings, each once."""
    there = set(names)
    return Picker("Weighting", {name: said for name, said in WEIGHTINGS.items() if name in there})


def head_view(kept: Kept, weighting: Picker) -> Iterator[Chart]:
    """The chart; none where no pattern is kept, or all are too long."""
    if shown := kept.shown:
        pickers = [*_pickers(kept, shown), weighting]
        yield chart("Head view", _SENTENCE, pickers, kept.view, size="wide")


def _pickers(kept: Kept, shown: dict[str, str]) -> list[Picker]:
    n_prompts = kept.patterns["prompt_id"].nunique()
    searched: dict[str, dict[str, str]] | None = {} if n_prompts > 1 else None
    heads = sorted({int(head) for head in kept.patterns["head"]})
    return [
        Picker("Prompt", shown, facets=searched, n_all=n_prompts),
        Picker("Block", {str(block): str(block) for block in kept.blocks}),
        Picker("Head", {str(head): str(head) for head in heads} | {_MEAN: "mean of all"}),
    ]


def every_picker(charts: Sequence[Chart]) -> list[Picker]:
    """The pickers of some charts, each once."""
    found: list[Picker] = []
    for one in charts:
        found += [picker for picker in one.pickers if picker not in found]
    return found


def head_view_page(
    name: str, patterns: pd.DataFrame, prompts: pd.DataFrame, gate: Sequence[Mapping[str, Any]]
) -> bytes:
    """The page of kept patterns that are no record.

    Raises InputProblems where none of them has room on a page.
    """
    kept = Kept(patterns, prompts)
    charts = list(head_view(kept, weighting_picker(kept.weightings)))
    if not charts:
        most = patterns["weights"].map(len).max()
        what = f"{len(patterns)} patterns of up to {most:,} weights are too many for a page"
        raise InputProblems([Problem("html", what, "Give a shorter prompt.")])
    sentence = "What each attention head looks at."
    page = Page(f"{name}: head view", sentence, every_picker(charts), charts)
    facts = Facts(f"{name}: every head, gated", [("model", name)], list(map(gate_row, gate)))
    return page_html(page, facts)
