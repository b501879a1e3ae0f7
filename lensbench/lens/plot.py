"""Interactive figures of lens readings for notebooks and `lensbench lens --html`."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

from lensbench.escape import visible

_LABEL_LENGTH = 9


def heat_map(frame: pd.DataFrame, prompt_id: str, value: str, title: str) -> go.Figure:
    """Layer x position for one prompt under its first lens; the residual after whole blocks."""
    part = frame[(frame.prompt_id == prompt_id) & (frame.site != "resid_mid")]
    part = part[part.lens == part.lens.iloc[0]].sort_values(["layer", "position"])
    grid = part.pivot(index="layer", columns="position", values=value)
    label = _grid(part, "label", [_short(tokens[0]) for tokens in part.top_tokens])
    hover = _grid(part, "hover", [_hover(row) for row in part.itertuples()])
    tokens = part.drop_duplicates("position").set_index("position").token
    columns = [f"{position}: {_safe(tokens[position])}" for position in grid.columns]
    figure = go.Figure(
        go.Heatmap(
            z=grid.to_numpy(),
            x=columns,
            y=[int(layer) for layer in grid.index],
            text=label,
            texttemplate="%{text}",
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            colorscale="Viridis",
            colorbar={"title": value},
        )
    )
    height = 140 + 22 * len(grid.index)
    figure.update_layout(title=html.escape(title), height=height, yaxis_title="layer")
    return figure


def _grid(part: pd.DataFrame, name: str, values: list[str]) -> list[list[str]]:
    cells = part.assign(**{name: values})
    return cells.pivot(index="layer", columns="position", values=name).to_numpy().tolist()


def _safe(token: str) -> str:
    """A token inside plotly text, which understands some HTML."""
    return html.escape(visible(token))


def _short(token: str) -> str:
    shown = visible(token)
    return html.escape(shown if len(shown) <= _LABEL_LENGTH else shown[: _LABEL_LENGTH - 1] + "…")


def _hover(row: object) -> str:
    tops = zip(row.top_tokens, row.top_probs, strict=True)  # type: ignore[attr-defined]
    lines = [f"{_safe(token)}  {prob:.3f}" for token, prob in tops]
    facts = [
        f"layer {row.layer}, position {row.position}",  # type: ignore[attr-defined]
        f"entropy {row.entropy_bits:.2f} bits",  # type: ignore[attr-defined]
        f"KL(model || lens) {row.kl_bits:.2f} bits",  # type: ignore[attr-defined]
    ]
    return "<br>".join([*facts, *lines])
