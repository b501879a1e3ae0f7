"""What a diff looks like: both readings by depth and their changes, of the mean or of a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lensbench.report.kit.markdown import header
from lensbench.report.kit.numbers import is_missing
from lensbench.report.kit.page import WHOLE
from lensbench.report.kit.views import Axis, Dots, Line, Lines, Nothing, by_depth, of_values
from lensbench.report.lens.views import DEPTH, blocks_only
from lensbench.report.manifest import SIDES
from lensbench.stats.estimates import Estimate

_UNRECORDED = "not recorded for this prompt"
_NO_AXIS = Axis()


@dataclass(frozen=True)
class Quantity:
    """What is compared: its columns in the tables and in `diff_cells`."""

    title: str
    change: str  # of table "changes"
    cells_change: str  # of the cells below
    curve: str = ""  # of table "curves", with a place for the side; none: it has no sides
    curve_axis: Axis = _NO_AXIS
    cells: str = ""  # of the cells below, with a place for the side
    cells_axis: Axis = _NO_AXIS
    change_title: str = ""
    flag: str = ""  # what a prompt's 1 means


def _reading(title: str, curve: str, cells: str) -> Quantity:
    axis, change = Axis(title), f"{cells}_change"
    return Quantity(title, change, change, curve, axis, f"{cells}_{{}}", axis, f"{title}: b − a")


QUANTITIES = {
    "entropy": _reading("entropy (bits)", "entropy_{}_bits", "entropy_bits"),
    "kl": _reading("KL(model ‖ lens) (bits)", "kl_{}_bits", "kl_bits"),
    "prob": _reading("probability of the answer", "answer_{}_prob", "answer_prob"),
    "rank": Quantity(
        "rank of the answer",
        "answer_rank_log2_change",
        "answer_rank_log2_change",
        "answer_rank1_{}_share",
        Axis("share with the answer at rank 1", percent=True),
        "answer_rank_log2_{}",
        Axis("log2 of the answer's rank (0: first)"),
        "log2(rank b / rank a)",
    ),
    "cosine": Quantity("residual: cosine", "resid_cosine", "resid_cosine"),
    "relative": Quantity("residual: ‖b − a‖ / ‖a‖", "resid_change_relative", "resid_change"),
    "lens_kl": Quantity("KL(lens a ‖ lens b) (bits)", "lens_kl_bits_mean", "lens_kl_bits"),
    "top1": Quantity("same top token", "top1_same_share", "top1_same", flag="same"),
}


@dataclass(frozen=True)
class Moves:
    """What the views of one diff are made of."""

    names: tuple[str, str]
    changes: pd.DataFrame
    curves: pd.DataFrame
    cells: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # column -> [prompt, depth]

    def both(self, name: str, prompt: str = WHOLE) -> Lines | Nothing:
        """The two sides' curves."""
        quantity = QUANTITIES[name]
        if not quantity.curve:
            return Nothing("This compares the two: it has no curve for each side.")
        lines, column = [], quantity.cells if prompt else quantity.curve
        for side, title, dash in zip(SIDES, self.names, ("solid", "dash"), strict=True):
            mean = self.curves[quantity.curve.format(side)]
            points = self._points(mean, column.format(side), prompt)
            lines.append(Line(title, points, dash=dash))  # type: ignore[arg-type]
        axis = quantity.cells_axis if prompt else quantity.curve_axis
        limits = blocks_only(lines) if name == "kl" else None
        return Lines(DEPTH, axis, self._places(), lines, axis.title, limits=limits)

    def change(self, name: str, prompt: str = WHOLE) -> Lines:
        """The change, for the mean with its test."""
        quantity = QUANTITIES[name]
        points = self._points(self.changes[quantity.change], quantity.cells_change, prompt)
        p: list[float | None] = []
        if not prompt and f"{quantity.change}_p" in self.changes:
            found = self.changes[f"{quantity.change}_p"]
            p = [None if is_missing(value) else float(value) for value in found]
        title = quantity.change_title or quantity.title
        axis = Axis(title, percent=name == "top1" and not prompt, flag=quantity.flag)
        whose = "this prompt" if prompt else "mean change, b minus a, 95 % interval"
        line, zero = Line(whose, points, p), bool(quantity.change_title)
        limits = blocks_only([line]) if name == "kl" else None
        return Lines(DEPTH, axis, self._places(), [line], title, zero, limits=limits)

    def updates(self) -> Lines | None:
        """Norms of adapters' updates by depth; None without any."""
        sides = [side for side in SIDES if f"{side}_update_norm" in self.changes]
        lines = [Line("", of_values(self.changes[f"{side}_update_norm"])) for side in sides]
        title = "norm of the adapter's update"
        return Lines(DEPTH, Axis(title), self._places(), lines, title) if lines else None

    def _places(self) -> dict[float, str]:
        return by_depth(self.changes)

    def _points(self, mean: pd.Series, column: str, prompt: str) -> list[Estimate]:
        """The mean's Estimates, or a prompt's values; a missing one has the mean's reason."""
        if not prompt:
            return list(mean)
        values = of_values(self.cells[column].loc[prompt], _UNRECORDED)
        return [
            whole if own.value is None and whole.value is None else own
            for own, whole in zip(values, mean, strict=True)
        ]


def of_prompts(
    cells: pd.DataFrame, depths: Iterable[float], ids: Iterable[str]
) -> dict[str, pd.DataFrame]:
    """[prompt, depth] of every column that a single prompt is shown by."""
    found = cells.assign(
        **{f"answer_rank_log2_{side}": np.log2(cells[f"answer_rank_{side}"]) for side in SIDES},
        **{
            f"{name}_change": cells[f"{name}_b"] - cells[f"{name}_a"]
            for name in ("entropy_bits", "kl_bits", "answer_prob")
        },
        top1_same=cells["top1_same"].astype(float),
    )
    columns = {q.cells.format(side) for q in QUANTITIES.values() for side in SIDES if q.cells}
    columns |= {q.cells_change for q in QUANTITIES.values()}
    return {
        name: found.pivot(index="prompt_id", columns="depth", values=name).reindex(
            index=list(ids), columns=list(depths)
        )
        for name in sorted(columns)
    }


def milestone_shifts(frame: pd.DataFrame, n_layers: int) -> Dots:
    """Median shift of every milestone with its interval; the grey band is one layer each way."""
    rows = [
        Line(f"{header(row['milestone'])} ({row['n_prompts']})", [row["shift_pp"]])
        for row in frame.to_dict("records")
    ]
    x = Axis("shift of depth: b minus a, positive is later (in brackets: prompts)", percent=True)
    band = ((-1 / n_layers, 1 / n_layers),)
    return Dots(x, rows, zero=True, shade=band, shade_name="less than one layer")
