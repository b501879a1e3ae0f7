"""Attention over layers in a report: from which tokens something may have come to one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lensbench.escape import visible
from lensbench.report.attention.head_view import Kept
from lensbench.report.kit.figures import WIDTH, shortened
from lensbench.report.kit.views import COLOURS
from lensbench.stats.flow import Mixing, max_flow, mixing, paths, rollout

MOST_TOKENS = 20  # of a prompt: the first ones, which see no others
_LEAST = 0.005  # of a line that is drawn
_TITLES = {"plain": "the pattern", "moved": "weighted by what is moved"}

Blocks = Mapping[str, Sequence[Mixing]]  # by weighting


def flow_of(kept: Kept, item: str) -> tuple[Blocks, list[str]]:
    """How each block mixes the first tokens of a kept prompt, by weighting; and the tokens."""
    n = MOST_TOKENS
    blocks = {
        weighting: [mixing(kept.squares(item, one, weighting)[:, :n, :n]) for one in kept.blocks]
        for weighting in kept.weightings
    }
    return blocks, kept.tokens(item)[:n]


def flow_table(blocks: Blocks, tokens: Sequence[str]) -> pd.DataFrame:
    """One row per token: what of the last one's rollout is from it, and its maximum flow."""
    found: dict[str, object] = {"position": range(len(tokens)), "token": map(visible, tokens)}
    for weighting, own in blocks.items():
        first = "" if weighting == "plain" else f"{weighting}_"
        found[f"{first}rollout_share"] = rollout(own)[-1, -1]
        found[f"{first}max_flow"] = max_flow(own, len(tokens) - 1)
    return pd.DataFrame(found)


def flow_maps(blocks: Blocks, tokens: Sequence[str]) -> Figure:
    """A row for each weighting: the last token's rollout after each block, and its way there.

    Lines go from the last token, above, down to the input, as wide as the share that goes over
    each edge.
    """
    n_layers, names = len(next(iter(blocks.values()))), [shortened(one, 10) for one in tokens]
    height = 0.8 + min(max(0.12 * n_layers, 1.8), 4.0)
    figure = Figure(figsize=(WIDTH, height * len(blocks)), layout="constrained")
    axes = figure.subplots(len(blocks), 2, squeeze=False, sharex=True, sharey=True)
    for (left, right), (weighting, own) in zip(axes, blocks.items(), strict=True):
        after = np.vstack([np.eye(len(tokens))[-1], rollout(own)[:, -1]])
        image = left.imshow(after, vmin=0, vmax=1, cmap="viridis", origin="lower", aspect="auto")
        bar = figure.colorbar(image, ax=left, label="share of the rollout", pad=0.01)
        bar.outline.set_visible(False)
        right.add_collection(_lines(paths(own, len(tokens) - 1)))
        left.set(ylabel="layer", title=f"{_TITLES[weighting]}: rollout")
        right.set(title=f"{_TITLES[weighting]}: its way")
        right.set(xlim=(-0.5, len(tokens) - 0.5), ylim=(-0.5, n_layers + 0.5))
        left.spines[:].set_visible(False)
    for axis in axes[-1]:
        axis.set_xticks(range(len(tokens)), names, fontsize=8, rotation=90)
    axes[0, 0].yaxis.set_major_locator(MaxNLocator(8, integer=True))
    for axis in axes.flat:
        axis.tick_params(axis="x", length=0)
    return figure


def _lines(edges: Float[np.ndarray, "block query key"]) -> LineCollection:
    block, query, key = np.nonzero(edges >= _LEAST)
    shares = edges[block, query, key].round(4)  # last bits differ from machine to machine
    ends = [
        [(below, layer), (above, layer + 1)]
        for layer, above, below in zip(block, query, key, strict=True)
    ]
    return LineCollection(
        ends,
        colors=COLOURS[0],
        linewidths=0.4 + 5 * shares,
        alpha=0.25 + 0.75 * shares,
        capstyle="butt",
    )
