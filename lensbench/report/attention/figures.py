"""Figures of attention heads that no view of the kit draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.cluster.hierarchy import dendrogram

from lensbench.escape import printable
from lensbench.records.record import Record
from lensbench.report.attention.alike import APART, grid
from lensbench.report.attention.flow import MOST_TOKENS, flow_maps, flow_of
from lensbench.report.attention.head_view import Kept
from lensbench.report.kit.figures import GREY, WIDTH, shortened, to_svg
from lensbench.report.kit.views import COLOURS
from lensbench.stats.clusters import leaves, tree
from lensbench.stats.naming.names import UNDECIDED

_COLUMNS = 3


def figures(
    record: Record, kept: Kept | None, best: Mapping[str, tuple[int, int]]
) -> dict[str, Callable[[], bytes]]:
    """Name -> figure, of those tables that have rows.

    Args:
        kept: patterns, if there are any.
        best: of some scores, the (block, head) that is highest: those whose patterns are shown.
    """
    found: dict[str, Callable[[], bytes]] = {}
    if len(names := record.table("names")):
        found["names"] = partial(to_svg, name_shares, names)
    if len(similarity := record.table("head_similarity")):
        _, bits = grid(similarity)
        found["similarity"] = partial(to_svg, similarity_tree, bits, APART)
    if kept is not None and (item := kept.first) is not None:
        found["flow"] = partial(to_svg, flow_maps, *flow_of(kept, item))
        if best:
            found["patterns"] = kept_maps(kept, item, best)
        found["grid"] = partial(to_svg, pattern_grid, [kept.squares(item, b) for b in kept.blocks])
    return found


def kept_maps(kept: Kept, item: str, best: Mapping[str, tuple[int, int]]) -> Callable[[], bytes]:
    """The patterns of the best heads on one kept prompt."""
    squares = _squares(kept, item, best)
    return partial(to_svg, pattern_maps, squares, kept.tokens(item), kept.both_ways(item))


def _squares(
    kept: Kept, item: str, best: Mapping[str, tuple[int, int]]
) -> dict[str, Float[np.ndarray, "query key"]]:
    """The patterns of the best heads by the scores that they are best in, each head once."""
    titles: dict[tuple[int, int], list[str]] = {}
    for score, head in best.items():
        titles.setdefault(head, []).append(score.replace("_", " "))
    return {
        f"{block}.{head}: {', '.join(scores)}": kept.squares(item, block)[head]
        for (block, head), scores in titles.items()
    }


def pattern_maps(
    patterns: Mapping[str, Float[np.ndarray, "query key"]],
    tokens: Sequence[str],
    both_ways: bool = False,
) -> Figure:
    """Query x key of some heads, by their titles: the first tokens, and what they look at.

    Of a causal model the first tokens see only each other, so that what is cut is cut from no row.
    """
    n = min(len(tokens), MOST_TOKENS)
    names = [shortened(token, 8) for token in tokens[:n]]
    columns = min(_COLUMNS, len(patterns))
    rows = -(-len(patterns) // columns)
    figure = Figure(figsize=(WIDTH, 0.3 + 2.9 * rows * 3 / _COLUMNS), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for i, (axis, (title, own)) in enumerate(zip(axes.flat, patterns.items(), strict=False)):
        shown = np.where(np.tri(n, dtype=bool) | both_ways, own[:n, :n], np.nan)
        image = axis.imshow(shown, vmin=0, vmax=1, cmap="viridis", interpolation="none")
        axis.set_title(title, fontsize=9.5)
        axis.set_xticks(range(n), names, fontsize=7.5, rotation=90)
        axis.set_yticks(range(n), names if i % columns == 0 else [""] * n, fontsize=7.5)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    for axis in axes.flat[len(patterns) :]:
        axis.set_axis_off()
    bar = figure.colorbar(image, ax=list(axes.flat), label="attention", aspect=30, pad=0.01)
    bar.outline.set_visible(False)
    return figure


def pattern_grid(
    blocks: Sequence[Float[np.ndarray, "head query key"]], both_ways: bool = False
) -> Figure:
    """Every head's pattern of the first tokens, small: a column for each block."""
    n = min(MOST_TOKENS, blocks[0].shape[-1])
    size, n_heads = n + 1, max(map(len, blocks))  # a line between two
    whole = np.full((size * n_heads, size * len(blocks)), np.nan)
    for i, own in enumerate(blocks):
        for j, pattern in enumerate(own):
            cut = np.where(np.tri(n, dtype=bool) | both_ways, pattern[:n, :n], np.nan)
            whole[size * j : size * j + n, size * i : size * i + n] = cut
    height = WIDTH * n_heads / len(blocks)
    figure = Figure(figsize=(WIDTH, min(max(height, 1.5), 12.0) + 0.5), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(whole, vmin=0, vmax=1, cmap="viridis", interpolation="none", aspect="auto")
    for which, count in ((axis.xaxis, len(blocks)), (axis.yaxis, n_heads)):
        step = -(-count // 16)
        shown = range(0, count, step)
        which.set_ticks([size * k + n / 2 - 0.5 for k in shown], [str(k) for k in shown])
    axis.set(xlabel="block", ylabel="head")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, label="attention", aspect=30, pad=0.01)
    bar.outline.set_visible(False)
    return figure


def name_shares(names: pd.DataFrame) -> Figure:
    """Shares of heads by name: of each block as stacked bars, of the model as a pie."""
    counts = names["name"].value_counts(sort=True)
    order = [*counts.index.drop(UNDECIDED, errors="ignore")]
    order += [UNDECIDED] * (UNDECIDED in counts.index)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(order)}
    colours |= {UNDECIDED: GREY}
    by_block = pd.crosstab(names["block"], names["name"], normalize="index")[order]
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    bars, pie = figure.subplots(1, 2, width_ratios=[2, 1])
    below = np.zeros(len(by_block))
    for name in order:
        label = printable(f"{name} ({counts[name]})")
        blocks, own = by_block.index.to_numpy(), by_block[name].to_numpy()
        bars.bar(blocks, own, bottom=below, color=colours[name], width=0.85, label=label)
        below += own
    bars.set(xlabel="block", ylabel="share of its heads", ylim=(0, 1))
    bars.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    bars.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    pie.pie(
        counts[order], colors=[colours[name] for name in order], startangle=90, counterclock=False
    )
    pie.set_title(f"all {len(names)} heads", fontsize=10)
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def similarity_tree(bits: Float[np.ndarray, "head head"], apart: float) -> Figure:
    """Jensen-Shannon divergence of every pair of heads under the dendrogram that orders them.

    Args:
        apart: the distance, in √bits, at which clusters are cut.
    """
    merges = tree(np.sqrt(bits))
    order = leaves(merges)
    drawn = dendrogram(merges, no_plot=True)
    figure = Figure(figsize=(6.6, 7.2), layout="constrained")
    above, axis = figure.subplots(2, 1, height_ratios=[1, 4])
    for x, y in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        above.plot([(value - 5) / 10 for value in x], y, color=GREY, linewidth=0.8)
    above.set(xlim=(-0.5, len(order) - 0.5), ylabel="distance, √bits")
    above.axhline(apart, color=GREY, linestyle="--", linewidth=1)
    above.set_ylim(bottom=0)
    above.set_xticks([])
    above.spines["bottom"].set_visible(False)
    image = axis.imshow(
        bits[np.ix_(order, order)],
        cmap="viridis",
        vmin=0,
        vmax=1,
        interpolation="none",
        aspect="auto",
    )
    axis.set(xlabel="head, in the dendrogram's order", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(
        image, ax=axis, label="Jensen-Shannon (bits)", aspect=30, location="bottom", pad=0.02
    )
    bar.outline.set_visible(False)
    return figure
