"""Figures of attention heads: what is drawn is what the tables say."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from lensbench.report.attention.alike import similarity_map
from lensbench.report.attention.figures import (
    name_shares,
    pattern_grid,
    pattern_maps,
    similarity_tree,
)
from lensbench.report.attention.flow import MOST_TOKENS, flow_maps, flow_table
from lensbench.report.attention.views import score_curves
from lensbench.report.kit.figures import to_svg


def test_bars_and_pie_are_shares_of_the_named_heads() -> None:
    called = [["induction", "undecided"], ["induction", "mixed"], ["mixed", "induction"]]
    names = pd.DataFrame(
        {"block": block, "head": head, "name": name}
        for block, own in enumerate(called)
        for head, name in enumerate(own)
    )
    bars, pie = name_shares(names).axes
    drawn = {
        container.get_label(): [bar.get_height() for bar in container]
        for container in bars.containers
    }
    assert drawn == {
        "induction (3)": [0.5, 0.5, 0.5],
        "mixed (2)": [0, 0.5, 0.5],
        "undecided (1)": [0.5, 0, 0],
    }
    tops = [bar.get_y() + bar.get_height() for bar in bars.containers[-1]]
    assert tops == [1, 1, 1]
    angles = [abs(wedge.theta2 - wedge.theta1) for wedge in pie.patches]
    assert angles == pytest.approx([180, 120, 60], abs=1e-4)


def test_a_map_shows_the_first_tokens_and_nothing_that_is_ahead() -> None:
    n = MOST_TOKENS + 5
    weights = np.tril(np.random.default_rng(0).random((n, n)))
    figure = pattern_maps({"3.1: induction": weights, "4.0: $a$": weights / 2}, ["<b>$x$"] * n)
    for axis, scale in zip(figure.axes[:2], (1, 2), strict=True):
        shown = axis.get_images()[0].get_array()
        below = np.tri(MOST_TOKENS, dtype=bool)
        assert shown.shape == (MOST_TOKENS, MOST_TOKENS)
        expected = weights[:MOST_TOKENS, :MOST_TOKENS] / scale
        assert (np.asarray(shown)[below] == expected[below]).all()
        assert shown.mask[~below].all()
    assert b"&lt;b&gt;$x$" in to_svg(pattern_maps, {"a": weights}, ["<b>$x$"] * n)


def test_every_head_has_its_place_in_the_grid() -> None:
    n = MOST_TOKENS + 5
    blocks = [np.tril(np.random.default_rng(i).random((3, n, n))) for i in range(2)]
    axis, _ = pattern_grid(blocks).axes
    shown = np.asarray(axis.get_images()[0].get_array().filled(np.nan))
    size, below = MOST_TOKENS + 1, np.tri(MOST_TOKENS, dtype=bool)
    assert shown.shape == (3 * size, 2 * size)
    for block, own in enumerate(blocks):
        for head, pattern in enumerate(own):
            part = shown[head * size :, block * size :][:MOST_TOKENS, :MOST_TOKENS]
            assert (part[below] == pattern[:MOST_TOKENS, :MOST_TOKENS][below]).all()
            assert np.isnan(part[~below]).all()
    assert [one.get_text() for one in axis.get_xticklabels()] == ["0", "1"]


def test_alike_heads_stand_beside_each_other() -> None:
    group = np.array([0, 1, 0, 2, 1, 0])
    bits = np.where(group[:, None] == group, 0.1, 0.9)
    np.fill_diagonal(bits, 0)
    above, axis, _ = similarity_tree(bits, 0.5).axes
    shown = np.asarray(axis.get_images()[0].get_array())
    assert sorted(shown.ravel()) == sorted(bits.ravel())
    assert (np.diag(shown) == 0).all()
    assert sum(a != b for a, b in pairwise(shown[0] > 0.5)) == 1  # one block, then the rest
    heights = [max(line.get_ydata()) for line in above.lines[:-1]]
    assert sorted(heights) == pytest.approx([*[np.sqrt(0.1)] * 3, *[np.sqrt(0.9)] * 2])
    assert list(above.lines[-1].get_ydata()) == [0.5, 0.5]


def test_a_map_of_heads_names_them_in_its_order() -> None:
    heads = [(0, 0), (0, 1), (2, 5)]
    pairs = [((0, 0), (0, 1), 0.9), ((0, 0), (2, 5), 0.1), ((0, 1), (2, 5), 0.8)]
    columns = ["block_a", "head_a", "block_b", "head_b", "js_bits"]
    similarity = pd.DataFrame([[*a, *b, bits] for a, b, bits in pairs], columns=columns)
    names = pd.DataFrame({"block": [2], "head": [5], "name": ["induction"]})
    view = similarity_map(similarity, names)
    assert view is not None
    assert sorted(view.names) == ["0.0", "0.1", "2.5, induction"]
    bits = {frozenset((a, b)): value for a, b, value in pairs}
    of = [heads[["0.0", "0.1", "2.5, induction"].index(name)] for name in view.names]
    for i, a in enumerate(of):
        for j, b in enumerate(of):
            assert view.grid[i, j] == (0 if a == b else bits[frozenset((a, b))])


def test_curves_are_the_mean_and_the_highest_of_each_block() -> None:
    rows = [
        {"condition": condition, "weighting": weighting, "block": block, "head": head}
        | {"induction": value, "digit": np.nan}
        for condition, weighting in (
            ("text", "plain"),
            ("repeated", "plain"),
            ("repeated", "moved"),
        )
        for block, own in enumerate([[0.1, 0.3], [0.2, 0.8]])
        for head, value in enumerate(own if condition == "repeated" else [0, 0])
    ]
    (view,) = score_curves(pd.DataFrame(rows), {"induction": "repeated", "digit": "text"}, 2)
    assert list(view.places) == [0.25, 0.75]
    values = [[point.value for point in line.points] for line in view.lines]
    assert values == [pytest.approx([0.2, 0.5]), [0.3, 0.8]]


def test_what_reaches_the_last_token_and_the_way_it_takes() -> None:
    """Two blocks of two tokens: in the first, half of the second token comes from the first."""
    past, back = np.eye(2), np.array([[1, 0], [1, 0]])
    blocks = {"plain": [(past + back) / 2, past], "moved": [past, past]}
    tokens = ["<s>", "$a$\n"]
    after, way, moved_after, moved_way, *_ = flow_maps(blocks, tokens).axes
    assert np.asarray(after.get_images()[0].get_array()).tolist() == [
        [0, 1],
        [0.5, 0.5],
        [0.5, 0.5],
    ]
    drawn = {tuple(map(tuple, one)) for one in way.collections[0].get_segments()}
    assert drawn == {((1, 1), (1, 2)), ((0, 0), (1, 1)), ((1, 0), (1, 1))}
    widths = sorted(way.collections[0].get_linewidths())
    assert widths == pytest.approx([0.4 + 5 * 0.5, 0.4 + 5 * 0.5, 0.4 + 5])
    assert [one.get_text() for one in moved_way.get_xticklabels()] == ["<s>", "$a$⏎"]
    assert np.asarray(moved_after.get_images()[0].get_array()).tolist() == [[0, 1]] * 3
    table = flow_table(blocks, tokens)
    assert table["rollout_share"].tolist() == [0.5, 0.5]
    assert table["max_flow"].tolist() == [0.5, 0.5]
    assert table["moved_rollout_share"].tolist() == [0, 1]
