"""The table of names, from the scores of a record: nothing is read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lensbench.records.schema.attention import NAMES, null_of
from lensbench.stats.naming.claims import CLAIMS
from lensbench.stats.naming.measured import Measured, measured
from lensbench.stats.naming.names import Name, Tested, named


def names_table(model: str, rows: pd.DataFrame, relation: Mapping[str, object]) -> pa.Table:
    """What every head is called; empty where no null was read.

    Args:
        rows: of the table `heads`, of one model.
        relation: of each prompt, by its id.
    """
    scores = [claim.score for claim in CLAIMS]
    found = measured(rows, list(dict.fromkeys(scores)))
    tested = found.tested(relation)
    each = [
        {"model": model, "block": int(block), "head": int(head), **_row(found, i, name, tested)}
        for i, (block, head, name) in enumerate(
            zip(found.heads["block"], found.heads["head"], named(tested), strict=bool(tested))
        )
    ]
    return NAMES.of_rows(each)


def _row(found: Measured, head: int, name: Name, tested: list[Tested]) -> dict[str, Any]:
    """The name, and the claim that is it or comes nearest to one."""
    of = [one for one in tested if one.claim.name in name.names] or tested
    excesses = np.array([one.excess[head] for one in of])
    nearest = of[int(np.where(np.isnan(excesses), -np.inf, excesses).argmax())]
    shuffled = found.scores.get(null_of(nearest.claim.reads, "shuffled"), {})
    left = shuffled[nearest.claim.score][:, head] if shuffled else np.array([np.nan])
    numbers = {
        "shuffled_value": np.nan if np.isnan(left).all() else np.nanmean(left),
        "value": nearest.mean[head],
        "null_value": nearest.null[head],
        "null_low": nearest.null_low[head],
        "null_high": nearest.null_high[head],
        "excess": nearest.excess[head],
        "q_value": nearest.q[head],
    }
    return {
        "name": name.text,
        "names": " + ".join(name.names),
        "claim": nearest.claim.name,
        "score": nearest.claim.score,
        "null": None if np.isnan(nearest.null[head]) else nearest.null_name[head],
        **{key: None if np.isnan(value) else float(value) for key, value in numbers.items()},
        "stability": name.stability,
        "n_prompts": int(nearest.n[head]),
    }
