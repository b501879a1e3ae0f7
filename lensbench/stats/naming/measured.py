"""The table of scores as arrays: prompts by heads, for each condition and score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lensbench.stats.estimates import NO_RELATION
from lensbench.stats.naming.claims import CLAIMS, REPEATED, TEXT
from lensbench.stats.naming.names import Scored, Tested, weigh_claims

_HEAD = ["block", "head"]


@dataclass(frozen=True)
class Measured:
    """Scores of one model's heads by their patterns.

    `scores[condition][score]` is [prompt, head]; `heads` has block, head and depth of each.
    """

    heads: pd.DataFrame
    prompts: Mapping[str, list[str]]  # ids, of each condition that claims read
    scores: Mapping[str, Mapping[str, Scored]]

    def tested(self, relation: Mapping[str, object] | None = None) -> list[Tested]:
        """Every claim about every head.

        Args:
            relation: of each prompt, by its id; prompts of one are drawn together.
        """
        own = self.clusters(relation or {})
        return weigh_claims(CLAIMS, self.scores, None if own is None else {TEXT: own})

    def clusters(self, relation: Mapping[str, object]) -> list[object] | None:
        """The relation of each prompt; None where they have none, and each stands for itself."""
        own = [relation.get(name) for name in self.prompts.get(TEXT, [])]
        return None if {None, NO_RELATION}.issuperset(own) else own


def measured(rows: pd.DataFrame, scores: Sequence[str]) -> Measured:
    """From the rows of the table `heads` of one model; of weightings, the pattern itself."""
    plain = rows[rows["weighting"] == "plain"]
    of_model = plain[~plain["condition"].str.endswith("untrained")]
    heads = of_model[[*_HEAD, "depth"]].drop_duplicates().sort_values(_HEAD, ignore_index=True)
    order = pd.MultiIndex.from_frame(heads[_HEAD])
    prompts = {
        name: list(plain.loc[plain["condition"] == name, "prompt_id"].unique())
        for name in (TEXT, REPEATED)
    }
    found: dict[str, dict[str, Scored]] = {}
    for condition, own in plain.groupby("condition", sort=False):
        base = REPEATED if str(condition).startswith(REPEATED) else TEXT
        by_place = own.set_index(["prompt_id", *_HEAD])
        found[str(condition)] = {
            score: by_place[score]
            .unstack(_HEAD)
            .reindex(index=prompts[base], columns=order)
            .to_numpy(np.float64)
            for score in scores
        }
    return Measured(heads, prompts, found)
