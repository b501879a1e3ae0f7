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


def flow_lines(blocks: Blocks, tokens: Sequence[str]) -> Figure:
    """Every block's edges that the last token's rollout goes over, from the top down to the input.

    As wide as the share that goes over them.
    """
    n_layers = len(next(iter(blocks.values())))
    height = 1.6 + min(max(0.16 * n_layers, 1.6), 5.0)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1, len(blocks), squeeze=False, sharey=True)[0]
    names = [shortened(token, 10) for token in tokens]
    for axis, (weighting, own) in zip(axes, blocks.items(), strict=True):
        edges = paths(own, len(tokens) - 1)
        axis.add_collection(_lines(edges))
        shares = edges[0].sum(0)
        labels = [f"{name}  {share:.0%}" for name, share in zip(names, shares, strict=True)]
        axis.set_xticks(range(len(tokens)), labels, fontsize=8, rotation=90)
        axis.set(xlim=(-0.6, len(tokens) - 0.4), ylim=(-0.3, n_layers + 0.3))
        axis.set_title(_TITLES[weighting])
        axis.yaxis.set_major_locator(MaxNLocator(10, integer=True))
        axis.tick_params(axis="x", length=0)
    axes[0].set_ylabel("layer")
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
        capstyle="round",
    )
