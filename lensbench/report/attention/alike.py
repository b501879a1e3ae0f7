"""Similarity of heads in a report: a map in the order of a dendrogram, and clusters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
from jaxtyping import Float

from lensbench.report.kit.views import Axis, Map
from lensbench.stats.clusters import groups, leaves, tree
from lensbench.stats.resampling import Floats

_NAMED = 12  # heads of a cluster, in the report's table
APART = 0.5  # the square root of bits at which clusters are cut
_HEAD = ["block", "head"]


def grid(similarity: pd.DataFrame) -> tuple[list[tuple[int, int]], Float[np.ndarray, "head head"]]:
    """The heads and their divergences, bits."""
    one = list(zip(similarity["block_a"], similarity["head_a"], strict=True))
    other = list(zip(similarity["block_b"], similarity["head_b"], strict=True))
    heads = sorted({*one, *other})
    place = {head: number for number, head in enumerate(heads)}
    found = np.zeros((len(heads), len(heads)))
    rows, columns = [place[head] for head in one], [place[head] for head in other]
    found[rows, columns] = found[columns, rows] = similarity["js_bits"]
    return heads, found


def clusters(similarity: pd.DataFrame, names: pd.DataFrame) -> pd.DataFrame:
    """One row per cluster of several heads, the largest first: its heads, blocks and names."""
    columns = ["n_heads", "blocks", "heads", "names"]
    if similarity.empty:
        return pd.DataFrame(columns=columns)
    heads, bits = grid(similarity)
    called = _called(names)
    of = groups(tree(np.sqrt(bits)), APART)
    rows = []
    for number in np.unique(of):
        own = [head for head, group in zip(heads, of, strict=True) if group == number]
        if len(own) > 1:
            blocks = sorted({block for block, _ in own})
            told = Counter(called.get(head, "not named") for head in own).most_common()
            rows.append(
                {
                    "n_heads": len(own),
                    "blocks": f"{blocks[0]}–{blocks[-1]}",
                    "heads": ", ".join(f"{block}.{head}" for block, head in own),
                    "names": ", ".join(f"{n} {name}" for name, n in told),
                }
            )
    found = pd.DataFrame(rows, columns=columns)
    return found.sort_values("n_heads", ascending=False, kind="stable", ignore_index=True)


def brief(found: pd.DataFrame) -> pd.DataFrame:
    """The largest clusters, with the first of their heads."""
    most = found.head(10)
    heads = [one.split(", ") for one in most["heads"]]
    short = [
        ", ".join(one[:_NAMED]) + (f" and {len(one) - _NAMED} more" if len(one) > _NAMED else "")
        for one in heads
    ]
    return most.assign(heads=short)


def similarity_map(similarity: pd.DataFrame, names: pd.DataFrame) -> Map | None:
    """Every head with every other, alike ones beside each other; by block, head and its name."""
    if similarity.empty:
        return None
    heads, bits = grid(similarity)
    called = _called(names)
    order = leaves(tree(np.sqrt(bits)))
    ordered: Floats = bits[np.ix_(order, order)]
    axis = Axis("head, in the dendrogram's order")
    said = [f"{block}.{head}" for block, head in heads]
    said = [
        f"{one}, {called[head]}" if head in called else one
        for one, head in zip(said, heads, strict=True)
    ]
    title = "Jensen-Shannon divergence (bits)"
    return Map(axis, axis, ordered, (0.0, 1.0), title, names=[said[i] for i in order])


def _called(names: pd.DataFrame) -> dict[tuple[int, int], str]:
    """The name of each head that was named."""
    places = zip(names["block"], names["head"], strict=True)
    return dict(zip(places, names["name"], strict=True))
