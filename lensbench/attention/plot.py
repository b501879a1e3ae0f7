"""Interactive figures of heads and of patterns, for notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from lensbench.escape import visible


def head_map(means: pd.DataFrame, value: str, title: str) -> go.Figure:
    """Block x head: one number each, 0..1."""
    figure = go.Figure(
        go.Heatmap(
            z=means.to_numpy(),
            x=[int(head) for head in means.columns],
            y=[int(block) for block in means.index],
            zmin=0,
            zmax=1,
            colorscale="Viridis",
            colorbar={"title": value},
            hovertemplate="block %{y}, head %{x}: %{z:.3f}<extra></extra>",
        )
    )
    height = 160 + 18 * len(means)
    axes = {"xaxis_title": "head", "yaxis_title": "block", "xaxis_dtick": 1}
    return figure.update_layout(title=html.escape(title), height=height, **axes)


def pattern_map(
    grid: Float[np.ndarray, "query key"],
    tokens: Sequence[str],
    title: str,
    both_ways: bool = False,
) -> go.Figure:
    """Query x key: how much each token looks at each; what it may not look at is empty.

    With `both_ways` each may look at every other.
    """
    shown = [f"{place}: {html.escape(visible(token))}" for place, token in enumerate(tokens)]
    figure = go.Figure(
        go.Heatmap(
            z=grid if both_ways else np.where(np.tri(len(grid), dtype=bool), grid, np.nan),
            x=shown,
            y=shown,
            zmin=0,
            zmax=1,
            colorscale="Viridis",
            hovertemplate="%{y} looks at %{x}: %{z:.3f}<extra></extra>",
        )
    )
    side = 220 + 18 * len(grid)
    axes = {"xaxis_title": "key", "yaxis_title": "query", "yaxis_autorange": "reversed"}
    return figure.update_layout(title=html.escape(title), height=side, width=side, **axes)
