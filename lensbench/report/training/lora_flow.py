"""The LoRA-flow diagram: the model's blocks from bottom to top, and where adapters sit in them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from lensbench.escape import printable
from lensbench.report.kit.figures import COLOURS, GREY, WIDTH

ROW = 0.27  # inches that a block takes
_BLOCKS_AT, _CELLS_AT, _RIGHT = 0.9, 2.4, 10.0  # along the width
_FROZEN, _TRAINED = GREY, COLOURS[1]


def lora_flow(n_layers: int, modules: pd.DataFrame, settings: dict[str, Any], share: str) -> Figure:
    """Every block with its adapted modules marked; what enters the lowest of them never changes.

    `modules` has the columns block (0-based) and target; `share` is the text on trainable weights.
    """
    inside = modules.dropna(subset=["block"])
    targets = sorted(inside["target"].unique(), key=list(inside["target"]).index)
    adapted = {(int(b), t) for b, t in zip(inside["block"], inside["target"], strict=True)}
    blocks = {block for block, _ in adapted}
    lowest = min(blocks, default=n_layers)
    figure = Figure(figsize=(WIDTH, max(ROW * (n_layers + 3), 3.4)), layout="constrained")
    axis, detail = figure.subplots(1, 2, width_ratios=[3, 2])
    width = (_RIGHT - _CELLS_AT) / max(len(targets), 1)
    outside = sorted(modules[modules["block"].isna()]["target"])
    _end(axis, -1, "embedding", "embed_tokens" in outside)
    for block in range(n_layers):
        _block(axis, block, block in blocks)
        for i, target in enumerate(targets):
            trained = (block, target) in adapted
            _cell(axis, _CELLS_AT + i * width, block, width, target, trained)
    _end(axis, n_layers, "norm and head", "lm_head" in outside)
    _stream(axis, -1, min(lowest, n_layers), _FROZEN)
    _stream(axis, lowest, n_layers, _TRAINED)
    _legend(axis, n_layers, lowest)
    axis.set_xlim(-0.6, _RIGHT + 0.1)
    axis.set_ylim(-1.7, n_layers + 1.6)
    axis.set_axis_off()
    _inset(detail, settings, share, len(modules), len(blocks), n_layers)
    return figure


def _box(axis: Axes, x: float, y: float, width: float, height: float, **style: Any) -> None:
    shape = "round,pad=0,rounding_size=0.12"
    axis.add_patch(FancyBboxPatch((x, y - height / 2), width, height, boxstyle=shape, **style))


def _block(axis: Axes, block: int, trained: bool) -> None:
    colour = _TRAINED if trained else _FROZEN
    _box(axis, _BLOCKS_AT, block, _RIGHT - _BLOCKS_AT, 0.88, fc="none", ec=colour, lw=1.0)
    axis.text(_BLOCKS_AT + 0.2, block, f"block {block}", va="center", fontsize=8, color=colour)


def _cell(axis: Axes, x: float, y: float, width: float, target: str, trained: bool) -> None:
    colour = _TRAINED if trained else _FROZEN
    fill = to_rgba(colour, 0.25) if trained else "none"
    style = "-" if trained else ":"
    _box(axis, x, y, width - 0.15, 0.62, fc=fill, ec=colour, lw=0.9, ls=style)
    name = printable(target.removesuffix("_proj"))  # q_proj is known as q
    middle = x + (width - 0.15) / 2
    axis.text(middle, y - 0.02, name, ha="center", va="center", fontsize=7.5, color=colour)


def _end(axis: Axes, y: int, name: str, trained: bool) -> None:
    """The embedding below the first block, the head above the last one."""
    colour = _TRAINED if trained else _FROZEN
    _box(axis, _BLOCKS_AT, y, _RIGHT - _BLOCKS_AT, 0.88, fc="none", ec=colour, lw=1.0, ls="--")
    axis.text((_BLOCKS_AT + _RIGHT) / 2, y, name, ha="center", va="center", fontsize=8.5)


def _stream(axis: Axes, start: int, end: int, colour: str) -> None:
    """The residual stream along the left side."""
    if end > start:
        low, high = start - (0.4 if start < 0 else 0.5), end - 0.5
        arrow = FancyArrowPatch(
            (0.35, low), (0.35, high), arrowstyle="-|>", mutation_scale=10, color=colour, lw=2
        )
        axis.add_patch(arrow)


def _legend(axis: Axes, n_layers: int, lowest: int) -> None:
    """What the two colours of the stream mean."""
    style: Any = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 8.5}
    if lowest >= 8:  # room for the words
        axis.text(-0.2, lowest / 2 - 0.75, "never changes", color=_FROZEN, **style)
    if n_layers - lowest >= 5:
        axis.text(-0.2, (lowest + n_layers) / 2 - 0.5, "adapts", color=_TRAINED, **style)


def _inset(
    axis: Axes, settings: dict[str, Any], share: str, n_modules: int, n_blocks: int, n_layers: int
) -> None:
    """One adapted module from inside, and the numbers."""
    rank, alpha = settings["rank"], settings["alpha"]
    axis.set_xlim(0, 10)
    axis.set_ylim(0, 10)
    axis.set_axis_off()
    _labelled(axis, 0.6, 5.2, 3.2, 2.6, "W\nfrozen", _FROZEN)
    _labelled(axis, 6.0, 4.5, 2.6, 0.9, f"A: width → {rank}", _TRAINED)
    _labelled(axis, 6.0, 6.1, 2.6, 0.9, f"B: {rank} → width", _TRAINED)
    for start, end, colour in (
        ((4.9, 3.0), (2.2, 3.9), _FROZEN),
        ((4.9, 3.0), (7.3, 4.05), _TRAINED),
        ((7.3, 4.95), (7.3, 5.65), _TRAINED),
        ((2.2, 6.5), (4.6, 7.5), _FROZEN),
        ((7.3, 6.55), (5.2, 7.5), _TRAINED),
    ):
        axis.add_patch(
            FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=colour, lw=1.2)
        )
    axis.text(4.9, 2.8, "x", ha="center", va="top", fontsize=11)
    axis.text(4.9, 7.6, f"W x + {alpha / rank:g} · B A x", ha="center", va="bottom", fontsize=11)
    lines = (
        f"rank {rank}, alpha {alpha} (scale alpha / rank = {alpha / rank:g})",
        f"{n_modules} modules in {n_blocks} of {n_layers} blocks",
        f"trainable: {share}",
    )
    axis.text(4.9, 1.7, "\n".join(lines), ha="center", va="top", fontsize=9, linespacing=1.5)


def _labelled(
    axis: Axes, x: float, y: float, width: float, height: float, text: str, colour: str
) -> None:
    _box(axis, x, y, width, height, fc=to_rgba(colour, 0.18), ec=colour, lw=1.1)
    axis.text(x + width / 2, y, text, ha="center", va="center", fontsize=9, color=colour)
