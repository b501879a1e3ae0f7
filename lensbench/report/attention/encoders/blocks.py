"""What the heads of each block look at, beside an untrained encoder of the same shape."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensbench.records.schema.encoders import ENCODER_SCORES
from lensbench.report.kit.views import Axis, Line, Lines, of_values
from lensbench.stats.estimates import Estimate, clustered_estimate, paired_difference, within

_NOT_READ = Estimate(None, None, None, 0, 0, "no untrained encoder was read")


def by_block(rows: pd.DataFrame, relation: pd.Series) -> pd.DataFrame:
    """One row per weighting x score x block: the mean over its heads, with an interval over texts.

    Beside it what the untrained encoder gives, and the difference text by text.

    Args:
        rows: those of the table `encoder_heads`.
        relation: of each text, by its id; intervals are clustered by it.
    """
    found = []
    for weighting, own in rows.groupby("weighting", sort=False):
        keys = ["condition", "block", "prompt_id"]
        means = own.groupby(keys)[list(ENCODER_SCORES)].mean()
        trained, untrained = (_of(means, condition) for condition in ("text", "untrained"))
        for score in ENCODER_SCORES:
            for block in trained.index.unique("block"):
                where = {"weighting": weighting, "score": score, "block": int(block)}
                one = trained.loc[block, score]
                base = None if untrained.empty else untrained.loc[block, score]
                found.append(where | _beside(one, base, relation))
    columns = ["weighting", "score", "block", "mean_share", "untrained_share", "above_untrained_pp"]
    return pd.DataFrame(found, columns=columns)


def _of(means: pd.DataFrame, condition: str) -> pd.DataFrame:
    there = means.index.get_level_values("condition") == condition
    return means[there].droplevel("condition")


def _beside(one: pd.Series, base: pd.Series | None, relation: pd.Series) -> dict[str, Estimate]:
    """Means over texts of one block, of the trained encoder and of the untrained one."""
    found = {"mean_share": _mean(one, relation)}
    if base is None:
        return found | {"untrained_share": _NOT_READ, "above_untrained_pp": _NOT_READ}
    above = paired_difference(one, base, relation, "mean")
    return found | {"untrained_share": _mean(base, relation), "above_untrained_pp": above}


def _mean(values: pd.Series, relation: pd.Series) -> Estimate:
    return within(clustered_estimate(values, relation.reindex(values.index)))


def peaks(blocks: pd.DataFrame) -> pd.DataFrame:
    """Of each weighting and score the block that has most of it."""
    order = blocks["mean_share"].map(lambda one: -np.inf if one.value is None else one.value)
    highest = order.groupby([blocks["weighting"], blocks["score"]], sort=False).idxmax()
    return blocks.loc[highest].reset_index(drop=True)


def block_curves(
    blocks: pd.DataFrame, heads: pd.DataFrame, n_layers: int
) -> dict[tuple[str, str], Lines]:
    """By weighting and score its curves over the depth: mean head, highest head, untrained.

    Args:
        blocks: as of `by_block`.
        heads: one row per condition x weighting x block x head, a column per score.
    """
    found = {}
    highest = heads[heads["condition"] == "text"].groupby(["weighting", "block"]).max()
    for (weighting, score), own in blocks.groupby(["weighting", "score"], sort=False):
        places = {(block + 0.5) / n_layers: f"block {block}" for block in own["block"]}
        most = highest[str(score)].xs(weighting).reindex(own["block"])
        lines = [
            Line("mean of a block's heads", own["mean_share"].tolist()),
            Line("its highest head", of_values(most), dash="dot"),
        ]
        untrained = own["untrained_share"].tolist()
        if any(one.value is not None for one in untrained):
            lines.append(Line("untrained: mean of a block's heads", untrained, dash="dash"))
        title, x = str(score).replace("_", " "), Axis("depth", percent=True)
        curves = Lines(x, Axis(title), places, lines, title, limits=(0.0, 1.0))
        found[str(weighting), str(score)] = curves
    return found
