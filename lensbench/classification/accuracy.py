"""Accuracy over seeds and examples, with intervals, and beside fine-tuning all weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from lensbench.classification.spec import DRAWN
from lensbench.stats.estimates import (
    EXAMPLES,
    Estimate,
    clustered_estimate,
    jointly,
    paired_difference,
    within,
)

_OF = ["method", "model", "labels"]
REFERENCE = "full"


def accuracy_rows(predictions: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows of the table `class_accuracy` out of `class_predictions`.

    The interval over examples holds the seeds as they are, with bunches of tested examples drawn as
    a whole; the one over seeds holds the examples. That of a difference holds over both.
    """
    hits = predictions.assign(hit=(predictions["label"] == predictions["predicted"]).astype(float))
    groups = list(hits.groupby(_OF, sort=False, dropna=False))
    wanted = [own for (method, _, labels), own in groups if (method, labels) == (REFERENCE, "own")]
    full = wanted[0] if wanted else None
    for (method, model, labels), own in groups:
        row = {
            "method": method,
            "model": model if isinstance(model, str) else None,
            "labels": labels,
        }
        over = within(clustered_estimate(own["hit"], own["bunch"], "share", group=EXAMPLES))
        yield (
            row
            | over.columns("accuracy")
            | _over_seeds(own)
            | _less_full(own, full, itself=method == REFERENCE and labels == "own")
            | {
                "n_test": own["example_id"].nunique(),
                "n_bunches": own["bunch"].nunique(),
                "n_seeds": own["seed"].nunique(),
            }
        )


def _over_seeds(own: pd.DataFrame) -> dict[str, float | None]:
    found = within(_of_seeds(own))
    return {"seeds_low": found.low, "seeds_high": found.high}


def _of_seeds(own: pd.DataFrame) -> Estimate:
    """The accuracy with its interval over seeds; none of one seed."""
    return clustered_estimate(own["hit"], own["seed"], "mean", group=EXAMPLES)


def _less_full(own: pd.DataFrame, full: pd.DataFrame | None, itself: bool) -> dict[str, Any]:
    """Its accuracy less that of fine-tuning, each a mean over seeds, example by example.

    The interval holds over examples and over the seeds of both: three seeds on the same examples
    differ by more than the examples alone say.
    """
    if full is None or itself:
        return Estimate(None, None, None, 0, 0).columns("less_full_pp")
    mean, other = (one.groupby("example_id")["hit"].mean() for one in (own, full))
    bunches = own.groupby("example_id")["bunch"].first()
    over = paired_difference(mean, other, bunches, "mean", EXAMPLES)
    seeds = [_of_seeds(own)] if _is_drawn(own) else []
    found = jointly(over, *seeds, less=[_of_seeds(full)])
    return within(found, -1.0, 1.0).columns("less_full_pp")


def _is_drawn(own: pd.DataFrame) -> bool:
    """Whether another seed gives other answers."""
    method, labels = own["method"].iloc[0], own["labels"].iloc[0]
    return labels != "own" or method.removesuffix("_calibrated") in DRAWN
