"""Layer x position heat maps of single prompts, with the top token in each cell."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lensbench.escape import visible
from lensbench.report.load import Record


def heat_map(record: Record, prompt_id: str, most_positions: int = 12) -> Figure:
    """Layer x position: the top token in each cell, coloured by its probability.

    A frame marks the cells in which the answer is at rank 1. Long prompts: the last positions.
    """
    cells = heat_map_cells(record, record.lens[record.lens["prompt_id"] == prompt_id])
    positions = sorted(cells["position"].unique())[-most_positions:]
    cells = cells[cells["position"].isin(positions)]
    n, width = record.n_layers + 1, len(positions)
    figure = Figure(figsize=(max(1.02 * width, 3) + 1.8, 0.235 * n + 1), layout="constrained")
    axis = figure.subplots()
    colours, grid = mpl.colormaps["viridis"], np.full((n, width), np.nan)
    for row in cells.to_dict("records"):
        x, y = positions.index(row["position"]), int(row["layer"])
        grid[y, x] = row["top_probs"][0]
        axis.text(
            x,
            y,
            shortened(row["top_tokens"][0]),
            color=_readable_on(colours(grid[y, x])),
            ha="center",
            va="center",
            fontsize=9,
            clip_on=True,
        )
        if row["answer_rank"] == 1:
            frame = (x - 0.47, y - 0.44)
            axis.add_patch(
                Rectangle(frame, 0.94, 0.88, fill=False, edgecolor="#ff7f2a", lw=2, zorder=3)
            )
    edges = np.arange(width + 1) - 0.5, np.arange(n + 1) - 0.5
    mesh = axis.pcolormesh(
        *edges, grid, cmap=colours, vmin=0, vmax=1, edgecolors="face", linewidth=0.2
    )
    _heat_map_axes(axis, record, cells, positions)
    bar = figure.colorbar(mesh, ax=axis, label="probability of the top token", aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    return figure


def heat_map_cells(record: Record, rows: pd.DataFrame) -> pd.DataFrame:
    """Of one prompt's lens rows: the main lens, at the embedding and after each block."""
    kept = (rows["lens"] == record.main_lens) & rows["site"].isin(["embed", "resid_post"])
    return rows[kept].sort_values(["layer", "position"])


def heat_map_prompts(record: Record, most: int = 4) -> list[str]:
    """The first prompts that have more than their last position recorded."""
    found = set(record.lens.loc[~record.lens["is_last"], "prompt_id"])
    return [prompt_id for prompt_id in record.prompts["prompt_id"] if prompt_id in found][:most]


def shortened(token: str, width: int = 11) -> str:
    """A token made visible and cut to `width` columns; wide characters count as two."""
    text, used = visible(token), 0
    for i, character in enumerate(text):
        used += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if used > width:
            return text[: max(i - 1, 1)] + "…"
    return text


def _heat_map_axes(
    axis: Axes, record: Record, cells: pd.DataFrame, positions: Sequence[int]
) -> None:
    tokens = cells.drop_duplicates("position").set_index("position")["token"]
    names = [shortened(tokens[position]) for position in positions]
    axis.set_xticks(range(len(positions)), names, fontsize=9.5)
    step = 1 if record.n_layers <= 40 else 2
    axis.set_yticks(range(0, record.n_layers + 1, step))
    axis.tick_params(length=0)
    axis.set(xlim=(-0.5, len(positions) - 0.5), ylim=(-0.5, record.n_layers + 0.5))
    axis.set(xlabel="position (its token)", ylabel="layer (0: embedding)")
    axis.spines[:].set_visible(False)


def _readable_on(colour: tuple[float, float, float, float]) -> str:
    """Near-black or near-white, whichever stands out (relative luminance, ITU-R BT.709)."""
    red, green, blue = (c**2.2 for c in colour[:3])
    return "#111111" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "#f4f4f4"
