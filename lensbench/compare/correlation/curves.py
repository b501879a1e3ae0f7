"""Curves over layers: the same layer under two conditions, and all layers of one condition.

A `Curve` keeps its resamples, so that the difference of two curves over the same prompts has a
paired interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lensbench.compare.similarity import (
    CONSTANT,
    Measure,
    compared,
    pearson_of_means,
    prepared,
    unit_rows,
    why_not,
)
from lensbench.stats.resampling import (
    Floats,
    Seed,
    bootstrap_weights,
    jackknife_half_width,
    left_out,
    percentiles,
)


@dataclass(frozen=True)
class Resampling:
    """How prompts are drawn again: their groups, the number of draws, the seed."""

    codes: Int[np.ndarray, " prompt"]
    resamples: int
    seed: Seed

    @property
    def n_groups(self) -> int:
        """Prompts, or groups of linked prompts."""
        return int(self.codes.max()) + 1

    def weights(self) -> Float[np.ndarray, "draw prompt"]:
        """Weights of every prompt: all alike first, then of each bootstrap draw."""
        n = len(self.codes)
        drawn = bootstrap_weights(self.codes, self.resamples, self.seed)
        return np.concatenate([np.full((1, n), 1 / n), drawn])


@dataclass(frozen=True, eq=False)
class Curve:
    """A number at each layer, with the same number over prompts drawn again or left out."""

    values: Float[np.ndarray, " layer"]  # NaN where there is none
    draws: Float[np.ndarray, "draw layer"] | None = None  # bootstrap
    parts: Float[np.ndarray, "part layer"] | None = None  # each part of the prompts left out
    reason: str | None = None  # why there are none at any layer
    no_interval: str | None = None
    basic: bool = False  # whether the interval is the basic one, not the percentile one
    n_groups: int = 0  # that were drawn

    def __sub__(self, other: Curve) -> Curve:
        """The difference, prompt for prompt; both curves need the same kind of resamples."""
        draws, parts = (
            mine - theirs if mine is not None and theirs is not None else None
            for mine, theirs in ((self.draws, other.draws), (self.parts, other.parts))
        )
        return Curve(
            self.values - other.values,
            draws,
            parts,
            self.reason or other.reason,
            self.no_interval or other.no_interval,
            self.basic or other.basic,
            self.n_groups or other.n_groups,
        )

    def interval(self) -> tuple[Floats, Floats]:
        """Both ends of the 95 % interval at each layer; NaN where there is none."""
        if self.draws is not None:
            low, high = percentiles(self.draws, self.n_groups)
            return (2 * self.values - high, 2 * self.values - low) if self.basic else (low, high)
        if self.parts is not None:
            half = np.array([jackknife_half_width(part) for part in self.parts.T])
            return self.values - half, self.values + half
        nothing = np.full_like(self.values, np.nan)
        return nothing, nothing

    def why_missing(self, layer: int) -> str | None:
        """Why there is no value, or else no interval, at a layer."""
        if np.isnan(self.values[layer]):
            return self.reason or CONSTANT
        return self.no_interval


def curves(
    measure: Measure,
    reference: Float[np.ndarray, "layer prompt d"],
    others: Mapping[str, Float[np.ndarray, "layer prompt d"]],
    how: Resampling,
    hows: Mapping[str, Resampling],
) -> dict[str, Curve]:
    """`measure` of each of `others` against the reference, layer by layer, with resamples.

    `how` is of the reference's prompts, `hows` of the others'; where they are the same prompts it
    is the very same one, and they are drawn together.
    """
    made: dict[str, Curve] = {}
    for name, values in others.items():
        reason = why_not(measure, reference[0], values[0])
        if reason is not None:
            made[name] = Curve(np.full(len(reference), np.nan), reason=reason)
    left = {name: values for name, values in others.items() if name not in made}
    if not left:
        return made
    if min(one.n_groups for one in (how, *hows.values())) < 2:
        alone = "1 prompt, or 1 group of them: no interval"
        found = {
            name: Curve(values, no_interval=alone)
            for name, values in _values(measure, reference, left).items()
        }
    elif measure.name == "pearson":
        found = _mean_vector_curves(reference, left, how, hows)
    elif measure.name == "cosine":
        found = _mean_of_prompts_curves(reference, left, how)
    else:
        found = _left_out_curves(measure, reference, left, how)
    return {name: (made | found)[name] for name in others}


def _values(
    measure: Measure, reference: Floats, others: Mapping[str, Floats]
) -> dict[str, Float[np.ndarray, " layer"]]:
    """Each of `others` against the reference; the reference is prepared once."""
    own = prepared(measure, list(reference))
    return {
        name: np.array(
            [
                compared(measure, a, b)
                for a, b in zip(own, prepared(measure, list(values)), strict=True)
            ]
        )
        for name, values in others.items()
    }


def _mean_vector_curves(
    reference: Floats,
    others: Mapping[str, Floats],
    how: Resampling,
    hows: Mapping[str, Resampling],
) -> dict[str, Curve]:
    """Pearson of mean vectors: a draw of prompts is a weighted mean of their vectors.

    Drawing prompts again adds as much noise to a mean as there is in it, and noise lowers a
    correlation: so the interval is the basic one (Davison & Hinkley 1997, "Bootstrap methods and
    their application", section 5.2). The percentile interval would mostly lie below the value.
    """
    own = how.weights()
    weights = {name: own if one is how else one.weights() for name, one in hows.items()}
    found = {
        name: np.stack(
            [
                pearson_of_means(own, mine, weights[name], theirs)
                for mine, theirs in zip(reference, values, strict=True)
            ],
            axis=1,
        )
        for name, values in others.items()
    }
    fewest = {name: min(how.n_groups, one.n_groups) for name, one in hows.items()}
    return {
        name: Curve(rows[0], rows[1:], basic=True, n_groups=fewest[name])
        for name, rows in found.items()
    }


def _mean_of_prompts_curves(
    reference: Floats, others: Mapping[str, Floats], how: Resampling
) -> dict[str, Curve]:
    weights = bootstrap_weights(how.codes, how.resamples, how.seed)
    cosines = {name: cosine_by_prompt(reference, values) for name, values in others.items()}
    return {
        name: Curve(own.mean(0), weights @ own, n_groups=how.n_groups)
        for name, own in cosines.items()
    }


def cosine_by_prompt(
    x: Float[np.ndarray, "layer prompt d"], y: Float[np.ndarray, "layer prompt d"]
) -> Float[np.ndarray, "prompt layer"]:
    """Cosine of each prompt's two vectors; NaN where one of them is zero."""
    return np.stack(
        [np.clip((unit_rows(a) * unit_rows(b)).sum(-1), -1, 1) for a, b in zip(x, y, strict=True)],
        axis=1,
    )


def _left_out_curves(
    measure: Measure, reference: Floats, others: Mapping[str, Floats], how: Resampling
) -> dict[str, Curve]:
    whole = _values(measure, reference, others)
    kept = left_out(how.codes, how.seed)
    if min(len(rows) for rows in kept) < measure.least:
        why = f"{reference.shape[1]} prompts: too few to leave some out for an interval"
        return {name: Curve(values, no_interval=why) for name, values in whole.items()}
    again = [
        _values(measure, reference[:, rows], {n: v[:, rows] for n, v in others.items()})
        for rows in kept
    ]
    return {
        name: Curve(values, parts=np.stack([part[name] for part in again]))
        for name, values in whole.items()
    }


def change(measure: Measure, curve: Curve) -> Curve:
    """The curve as a change from the reference: 0 is the same, larger is further apart."""
    if measure.is_distance:
        return curve
    same = Curve(np.ones_like(curve.values), *_ones_like(curve))
    return same - curve


def _ones_like(curve: Curve) -> tuple[Floats | None, Floats | None]:
    draws, parts = (None if a is None else np.ones_like(a) for a in (curve.draws, curve.parts))
    return draws, parts


def strictest(contrasts: Sequence[Curve]) -> Curve:
    """The smallest of several contrasts at each layer: what the strictest control leaves."""
    every = [curve.draws for curve in contrasts]
    draws = None if any(d is None for d in every) else np.min(every, axis=0)  # type: ignore[arg-type]
    values = np.min([curve.values for curve in contrasts], axis=0)
    reasons = [(curve.reason, curve.no_interval) for curve in contrasts]
    first = next((pair for pair in reasons if any(pair)), (None, None))
    basic, groups = zip(*((curve.basic, curve.n_groups) for curve in contrasts), strict=True)
    return Curve(values, draws, None, *first, any(basic), min(groups))


def layer_map(
    measure: Measure, values: Float[np.ndarray, "layer prompt d"]
) -> Float[np.ndarray, "layer layer"]:
    """`measure` of every layer against every other one, within one condition.

    NaN where it cannot be taken (`why_not`, or constant activations).
    """
    n = len(values)
    grid = np.full((n, n), np.nan)
    if why_not(measure, values[0], values[0]) is not None:
        return grid
    own = prepared(measure, list(values))
    for a in range(n):
        for b in range(a, n):
            grid[a, b] = grid[b, a] = compared(measure, own[a], own[b])
    return grid


def ranks(values: Sequence[float]) -> list[int | None]:
    """1 for the largest; None for NaN. Equal ones rank in their order."""
    order = [i for i in np.argsort(-np.asarray(values), kind="stable") if not np.isnan(values[i])]
    places = {int(layer): place for place, layer in enumerate(order, start=1)}
    return [places.get(layer) for layer in range(len(values))]
