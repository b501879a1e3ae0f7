"""The interactive page of a diff: both sides' curves and their change, of the mean or a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lensbench.report.kit.numbers import is_missing
from lensbench.report.kit.picker_page import (
    Axis,
    Line,
    Picker,
    View,
    chart,
    lines_view,
    nothing_view,
    picker_page,
)
from lensbench.report.kit.tables import Table
from lensbench.stats.bootstrap import Estimate

MOST_PROMPTS = 300  # in the picker
MOST_NUMBERS = 350_000  # of single prompts: about 2.6 MB
_UNRECORDED = "not recorded for this prompt"
_MEAN = ""  # the option of the mean over prompts
_DEPTH = Axis("depth", percent=True)
_NO_AXIS = Axis("")
_NUMBERS_A_LAYER = 16  # of a prompt: four readings of either side, eight changes


@dataclass(frozen=True)
class _Quantity:
    """What can be picked: its columns in the tables and in `diff_cells`."""

    title: str
    change: str  # of table "changes"
    cells_change: str  # of the cells below
    curve: str = ""  # of table "curves", with a place for the side; none: it has no sides
    curve_axis: Axis = _NO_AXIS
    cells: str = ""  # of the cells below, with a place for the side
    cells_axis: Axis = _NO_AXIS


def _reading(title: str, curve: str, cells: str, change: str) -> _Quantity:
    axis = Axis(title)
    return _Quantity(title, change, f"{cells}_change", curve, axis, f"{cells}_{{}}", axis)


_QUANTITIES = {
    "entropy": _reading("entropy (bits)", "entropy_{}_bits", "entropy_bits", "entropy_bits_change"),
    "kl": _reading("KL(model ‖ lens) (bits)", "kl_{}_bits", "kl_bits", "kl_bits_change"),
    "prob": _reading(
        "probability of the answer", "answer_{}_prob", "answer_prob", "answer_prob_change"
    ),
    "rank": _Quantity(
        "rank of the answer",
        "answer_rank_log2_change",
        "answer_rank_log2_change",
        "answer_rank1_{}_share",
        Axis("share with the answer at rank 1", percent=True),
        "answer_rank_log2_{}",
        Axis("log2 of the answer's rank (0: first)"),
    ),
    "cosine": _Quantity("residual: cosine", "resid_cosine", "resid_cosine"),
    "relative": _Quantity("residual: ‖b − a‖ / ‖a‖", "resid_change_relative", "resid_change"),
    "lens_kl": _Quantity("KL(lens a ‖ lens b) (bits)", "lens_kl_bits_mean", "lens_kl_bits"),
    "top1": _Quantity("same top token", "top1_same_share", "top1_same"),
}
_CHANGE_TITLES = {
    "rank": "log2(rank b / rank a)",
    **{name: f"{_QUANTITIES[name].title}: b − a" for name in ("entropy", "kl", "prob")},
}


def diff_page(
    names: tuple[str, str],
    made: Mapping[str, Table],
    cells: pd.DataFrame,
    prompts: pd.DataFrame,
) -> bytes:
    """`report.html` of what the tables hold; `cells` and `prompts` are the record's own."""
    changes, curves = made["changes"].frame, made["curves"].frame
    kept = prompts.head(min(MOST_PROMPTS, MOST_NUMBERS // (_NUMBERS_A_LAYER * len(changes) or 1)))
    page = _Page(names, changes, curves, _readings(cells, changes["depth"], kept["prompt_id"]))
    pickers = (
        Picker("Quantity", {name: q.title for name, q in _QUANTITIES.items()}),
        Picker("Prompt", _prompt_options(kept, len(prompts))),
    )
    charts = [
        chart(
            "Both by depth",
            f"a is {names[0]}, b is {names[1]}.",
            pickers,
            page.both,
        ),
        chart(
            "What changes",
            "b minus a, or the two against each other. Large dots: an adjusted p below 0.05.",
            pickers,
            page.change,
        ),
    ]
    left_out = (
        f" {len(kept)} of {len(prompts)} prompts can be picked; the mean is over all."
        if len(kept) < len(prompts)
        else ""
    )
    sentence = (
        "Each layer's residual at a prompt's last position, read through the model's own final "
        "norm and head; layer 0 is the embedding. Means over prompts have ribbons of 95 % "
        f"intervals over relations, a single prompt has none. Hover for the numbers.{left_out}"
    )
    return picker_page(f"{names[0]} against {names[1]}: what moved?", sentence, pickers, charts)


def _prompt_options(prompts: pd.DataFrame, n_all: int) -> dict[str, str]:
    """The mean, then every prompt with its answer."""
    answers = ["no answer" if is_missing(answer) else answer for answer in prompts["answer"]]
    each = zip(prompts["prompt_id"], prompts["prompt"], answers, strict=True)
    shown = {item: f"{prompt} → {answer}" for item, prompt, answer in each}
    return {_MEAN: f"mean over {n_all} prompts", **shown}


def _readings(cells: pd.DataFrame, depths: pd.Series, ids: pd.Series) -> dict[str, pd.DataFrame]:
    """[prompt, depth] of every column that a single prompt is shown by."""
    found = cells.assign(
        **{f"answer_rank_log2_{side}": np.log2(cells[f"answer_rank_{side}"]) for side in "ab"},
        **{
            f"{name}_change": cells[f"{name}_b"] - cells[f"{name}_a"]
            for name in ("entropy_bits", "kl_bits", "answer_prob")
        },
        top1_same=cells["top1_same"].astype(float),
    )
    columns = {q.cells.format(side) for q in _QUANTITIES.values() for side in "ab" if q.cells}
    columns |= {q.cells_change for q in _QUANTITIES.values()}
    return {
        name: found.pivot(index="prompt_id", columns="depth", values=name).reindex(
            index=ids, columns=depths
        )
        for name in sorted(columns)
    }


@dataclass(frozen=True)
class _Page:
    """What the views are made of."""

    names: tuple[str, str]
    changes: pd.DataFrame
    curves: pd.DataFrame
    readings: Mapping[str, pd.DataFrame]

    def both(self, name: str, prompt: str) -> View:
        """The two sides' curves."""
        quantity = _QUANTITIES[name]
        if not quantity.curve:
            return nothing_view("This compares the two: it has no curve for each side.")
        lines, column = [], quantity.cells if prompt else quantity.curve
        for side, title, dash in zip("ab", self.names, ("solid", "dash"), strict=True):
            mean = self.curves[quantity.curve.format(side)]
            lines.append(Line(title, self._points(mean, column.format(side), prompt), dash=dash))
        axis = quantity.cells_axis if prompt else quantity.curve_axis
        return lines_view(_DEPTH, axis, self._places(), lines)

    def change(self, name: str, prompt: str) -> View:
        """The change, for the mean with its test."""
        quantity = _QUANTITIES[name]
        mean = self.changes[quantity.change]
        points = self._points(mean, quantity.cells_change, prompt)
        p: list[float | None] = []
        if not prompt and f"{quantity.change}_p" in self.changes:
            found = self.changes[f"{quantity.change}_p"]
            p = [None if is_missing(value) else float(value) for value in found]
        title = _CHANGE_TITLES.get(name, quantity.title)
        axis = Axis(title, percent=name == "top1" and not prompt)
        return lines_view(
            _DEPTH, axis, self._places(), [Line(title, points, p)], zero=name in _CHANGE_TITLES
        )

    def _places(self) -> dict[float, str]:
        """Depth -> what it is called: its layer, unless the models differ in depth."""
        return {
            depth: f"depth {depth:.1%}" if is_missing(layer) else f"layer {layer}, {depth:.1%}"
            for depth, layer in zip(self.changes["depth"], self.changes["layer"], strict=True)
        }

    def _points(self, mean: pd.Series, column: str, prompt: str) -> list[Estimate]:
        """The mean's Estimates, or a prompt's values; a missing one has the mean's reason."""
        if not prompt:
            return list(mean)
        values = self.readings[column].loc[prompt]
        return [
            Estimate(None, None, None, 0, 0, whole.reason if whole.value is None else _UNRECORDED)
            if is_missing(value)
            else Estimate(float(value), None, None, 1, 1)
            for value, whole in zip(values, mean, strict=True)
        ]
