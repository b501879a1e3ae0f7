"""Shares of heads by class, with intervals, and how they swing with the threshold that makes them.

A published scheme sorts heads into four types and reports, of the 56 heads of one small model,
85.7 % global, 8.9 % self, 3.6 % local and 1.8 % token-specific. Which share of its attention puts a
head into a type is not known to us, so that shares are given here for every threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from lensbench.stats.estimates import Estimate, counted
from lensbench.stats.intervals import LEAST
from lensbench.stats.resampling import percentiles

# Of each type, the scores of which the largest counts; a head below the threshold in all is global.
TYPES: dict[str, tuple[str, ...]] = {
    "self": ("current_token",),
    "local": ("local_window",),
    "token-specific": ("first_token", "punctuation", "separator"),
    "global": (),
}
PUBLISHED = {"global": 48 / 56, "self": 5 / 56, "local": 2 / 56, "token-specific": 1 / 56}
THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
THIRDS = ("first third", "middle third", "last third")


def types_of(
    means: Mapping[str, Float[np.ndarray, "*draw head"]], threshold: float
) -> Int[np.ndarray, "*draw head"]:
    """The number in `TYPES` of each head: the type that has most, if that is enough.

    Args:
        threshold: the least share of a head's attention that puts it into a type but global.
    """
    each = [
        np.max([np.nan_to_num(means[score]) for score in scores if score in means], axis=0)
        for scores in TYPES.values()
        if scores
    ]
    stacked = np.stack(each)
    return np.where(stacked.max(0) >= threshold, stacked.argmax(0), len(each))


def third_of(depth: Float[np.ndarray, " head"]) -> Int[np.ndarray, " head"]:
    """In which third of the depth a head stands, 0 to 2."""
    return np.minimum((3 * depth).astype(int), 2)


def shares(
    classes: Sequence[str],
    point: Int[np.ndarray, " head"],
    drawn: Int[np.ndarray, "draw head"],
    codes: Int[np.ndarray, " prompt"],
) -> dict[str, Estimate]:
    """The share of heads in each class, with its 95 % interval over prompts drawn again.

    The heads are all that the model has, so that prompts alone are what is sampled.

    Args:
        codes: the number of the relation of each prompt, which are drawn together.
    """
    n, n_units, found = len(codes), int(codes.max(initial=-1)) + 1, {}
    for number, name in enumerate(classes):
        value = float((point == number).mean())
        if n_units < LEAST:
            why = f"{counted(n, n_units)}: no interval"
            found[name] = Estimate(value, None, None, n, n_units, why)
            continue
        low, high = percentiles((drawn == number).mean(1), n_units)
        ends = max(float(low), 0.0), min(float(high), 1.0)
        found[name] = Estimate(value, *ends, n, n_units)
    return found
