"""Views of the scores of heads: over depth."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lensbench.report.kit.views import Axis, Line, Lines, of_values


def score_curves(heads: pd.DataFrame, drawn: Mapping[str, str], n_layers: int) -> list[Lines]:
    """Each score over the depth: the mean of a block's heads, and its highest.

    Args:
        heads: one row per condition x weighting x block x head, a column per score.
        drawn: scores, and the condition that shows each.
    """
    views = []
    for score, condition in drawn.items():
        own = heads[(heads["condition"] == condition) & (heads["weighting"] == "plain")]
        by_block = own.groupby("block")[score]
        if own[score].notna().any():
            blocks = own["block"].unique()
            places = {(int(block) + 0.5) / n_layers: f"block {block}" for block in sorted(blocks)}
            lines = [
                Line("mean of a block's heads", of_values(by_block.mean())),
                Line("its highest head", of_values(by_block.max()), dash="dot"),
            ]
            title = f"{score.replace('_', ' ')} ({condition})"
            x = Axis("depth", percent=True)
            views.append(Lines(x, Axis(title), places, lines, title, limits=(0.0, 1.0)))
    return views
