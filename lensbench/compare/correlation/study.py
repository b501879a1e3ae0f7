"""A correlation study: conditions against a reference, layer by layer, as rows of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lensbench.compare.correlation.conditions import Aligned
from lensbench.compare.correlation.curves import (
    Curve,
    Resampling,
    change,
    cosine_by_prompt,
    curves,
    layer_map,
    ranks,
    strictest,
)
from lensbench.compare.correlation.spec import MAPPED
from lensbench.compare.forms import varied
from lensbench.compare.layer_choice import Choice, choose, stable_from
from lensbench.compare.permutation import (
    ROUNDING,
    adjusted_p_values,
    contrast_null,
    label_null,
    shift_null,
    swap_null,
)
from lensbench.compare.similarity import MEASURES, Measure
from lensbench.records.schema.correlation import VARIANTS
from lensbench.stats.resampling import Floats
from lensbench.stats.significance import false_discovery, p_values, sign_flips, unit_sums

Rows = dict[str, list[dict[str, Any]]]

CENTRING_TAKES_IT = "centring over the conditions removes the mean vectors that this compares"
NO_TEST = "tested on the measures pearson and cosine only"
NO_CONTROL = "without a control only cosine is tested, for a common shift of the vectors"
NO_DIFFERENCE = "no difference beyond rounding"


@dataclass(frozen=True, eq=False)
class Study:
    """What is compared, over one span."""

    aligned: Aligned
    conditions: tuple[str, ...]
    controls: tuple[str, ...]
    measures: tuple[Measure, ...]
    how: Mapping[str, Resampling]  # by condition; where paired, one and the same for all
    massive: dict[int, Bool[np.ndarray, " d"]]  # by width: the dimensions to leave out
    n_blocks: int | None = None

    @property
    def reference(self) -> str:
        """The condition that all others are compared with."""
        return self.aligned.names[0]

    def place(self, layer: int) -> dict[str, Any]:
        """A layer's columns."""
        return {"layer": layer, "depth": self.aligned.depths[layer]}


@dataclass(eq=False)
class Findings:
    """Rows of each table, and the choices of blocks by condition, measure and variant."""

    rows: Rows = field(
        default_factory=lambda: {
            name: [] for name in ("similarity", "layer_map", "layer_ranking", "layer_choice")
        }
    )
    choices: dict[tuple[str, str, str], Choice] = field(default_factory=dict)

    def add(self, table: str, rows: Sequence[dict[str, Any]], **labels: Any) -> None:
        """Add rows, each with these labels."""
        self.rows[table] += [labels | row for row in rows]

    def take(self, other: Findings, variant: str) -> None:
        """Add what `other` found, as of this variant."""
        for table, rows in other.rows.items():
            self.add(table, [row | {"variant": variant} for row in rows])
        for (condition, measure, _), choice in other.choices.items():
            self.choices[condition, measure, variant] = choice


def compare_measure(study: Study, measure: Measure) -> Findings:
    """One measure, every variant: curves, maps, ranked layers, chosen blocks."""
    whole, made = Findings(), dict[str, Findings]()
    for variant in VARIANTS:
        equal = _equal_variant(study, measure, variant)
        if equal not in made:
            values = varied(study.aligned.values, equal, study.massive)
            made[equal] = _one(study, measure, equal, values)
        whole.take(made[equal], variant)
    return whole


def _equal_variant(study: Study, measure: Measure, variant: str) -> str:
    """The first variant that this measure cannot tell from `variant`."""
    if variant == "without_massive" and not any(mask.any() for mask in study.massive.values()):
        return "as_is"
    return "as_is" if variant == "centred" and measure.own_centre else variant


def _one(study: Study, measure: Measure, variant: str, values: Mapping[str, Floats]) -> Findings:
    """One measure of one variant."""
    found = Findings()
    labels = {"span": study.aligned.span, "measure": measure.name, "variant": variant}
    made = _curves(study, measure, variant, values)
    for name, curve in made.items():
        role = "control" if name in study.controls else "condition"
        rows = list(_curve_rows(study, name, curve))
        found.add("similarity", rows, **labels, condition=name, role=role)
    if measure.name in MAPPED and (measure.name, variant) != ("pearson", "centred"):
        for name, own in values.items():
            found.add("layer_map", list(_map_rows(measure, own)), **labels, condition=name)
    changes = {name: change(measure, curve) for name, curve in made.items()}
    for condition in study.conditions if made else ():
        _rank(study, found, labels, measure, condition, changes, values)
    return found


def _curves(
    study: Study, measure: Measure, variant: str, values: Mapping[str, Floats]
) -> dict[str, Curve]:
    """Every other condition against the reference; none, where the measure needs pairs."""
    others = {name: values[name] for name in (*study.conditions, *study.controls)}
    if measure.paired and not study.aligned.paired:
        return {}
    if measure.name == "pearson" and variant == "centred":
        nothing = Curve(np.full(study.aligned.n_layers + 1, np.nan), reason=CENTRING_TAKES_IT)
        return dict.fromkeys(others, nothing)
    how = study.how[study.reference]
    return curves(measure, values[study.reference], others, how, study.how)


def _curve_rows(study: Study, name: str, curve: Curve) -> Iterator[dict[str, Any]]:
    low, high = curve.interval()
    for layer, value in enumerate(curve.values):
        yield study.place(layer) | {
            "n_prompts": len(study.aligned.prompt_ids[name]),
            "value": _number(value),
            "low": _number(low[layer]),
            "high": _number(high[layer]),
            "reason": curve.why_missing(layer),
        }


def _map_rows(measure: Measure, values: Floats) -> Iterator[dict[str, Any]]:
    grid = layer_map(measure, values)
    for a, b in zip(*np.triu_indices(len(grid)), strict=True):
        yield {"layer_a": int(a), "layer_b": int(b), "value": _number(grid[a, b])}


def _rank(
    study: Study,
    found: Findings,
    labels: dict[str, Any],
    measure: Measure,
    condition: str,
    changes: Mapping[str, Curve],
    values: Mapping[str, Floats],
) -> None:
    """One condition's layers, ranked against each control or on their own, and its blocks."""
    against: Sequence[str | None] = study.controls or (None,)
    contrasts = []
    for control in against:
        contrast = changes[condition]
        if control is not None:
            contrast = contrast - changes[control]
        contrasts.append(contrast)
        null = _null(study, measure, labels["variant"], condition, control, values)
        rows = list(_ranking_rows(study, contrast, null, two_sided=control is not None))
        found.add("layer_ranking", rows, **labels, condition=condition, control=control)
    if study.n_blocks is not None:
        _choose(study, found, labels, condition, strictest(contrasts))


def _null(
    study: Study,
    measure: Measure,
    variant: str,
    condition: str,
    control: str | None,
    values: Mapping[str, Floats],
) -> Floats | str:
    """The test's statistic under each draw [draw, layer], or why there is no test."""
    reference, own = values[study.reference], values[condition]
    how, theirs = study.how[study.reference], study.how[condition]
    if min(how.n_groups, theirs.n_groups) < 2:
        return "1 prompt, or 1 group of them: no test"
    if measure.name not in ("pearson", "cosine"):
        return NO_TEST
    if measure.name == "pearson" and variant == "centred":
        return CENTRING_TAKES_IT
    if control is None and measure.name == "pearson" and study.aligned.paired:
        return NO_CONTROL
    widths = {v.shape[-1] for v in (reference, own, values[control] if control else own)}
    if len(widths) > 1:
        return "other dimensions on the other side: no test"
    if not study.aligned.paired:
        return label_null(reference, own, (how.codes, theirs.codes), how.resamples, theirs.seed)
    signs = sign_flips(how.n_groups, how.resamples, how.seed)
    if control is None:
        null = shift_null(own - reference, how.codes, signs)
        same = 1.0 - cosine_by_prompt(reference, own).min(0) <= ROUNDING
        null[:, same] = np.nan
        return null
    if measure.name == "cosine":
        contrasts = cosine_by_prompt(reference, values[control]) - cosine_by_prompt(reference, own)
        return contrast_null(unit_sums(contrasts, how.codes), signs)
    return swap_null(reference, own, values[control], signs[:, how.codes])


def _ranking_rows(
    study: Study, contrast: Curve, null: Floats | str, two_sided: bool
) -> Iterator[dict[str, Any]]:
    """Layers from 1 on: layer 0, the embedding, is no block's output and is not tested.

    Against a control the test is two-sided: a condition may also change less than its control.
    """
    low, high = contrast.interval()
    places = ranks(contrast.values[1:].tolist())
    tested = null[:, 1:] if not isinstance(null, str) else None
    sided = np.abs(tested) if tested is not None and two_sided else tested
    p, adjusted, discovery = _p_columns(sided, len(places))
    for layer in range(1, len(contrast.values)):
        i = layer - 1
        none = null if isinstance(null, str) else NO_DIFFERENCE if np.isnan(p[i]) else None
        yield study.place(layer) | {
            "block": i,
            "rank": places[i],
            "change": _number(contrast.values[layer]),
            "low": _number(low[layer]),
            "high": _number(high[layer]),
            "statistic": None if tested is None else _number(tested[0, i]),
            "p": _number(p[i]),
            "p_adjusted": _number(adjusted[i]),
            "p_bh": _number(discovery[i]),
            "reason": contrast.why_missing(layer),
            "p_reason": none,
        }


def _p_columns(
    null: Float[np.ndarray, "draw layer"] | None, n: int
) -> tuple[Floats, Floats, Floats]:
    if null is None:
        return np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    p = p_values(null)
    return p, adjusted_p_values(null), false_discovery(p)


def _choose(
    study: Study, found: Findings, labels: dict[str, Any], condition: str, contrast: Curve
) -> None:
    assert study.n_blocks is not None
    choice = choose(contrast.values, contrast.draws, study.n_blocks)
    stable = stable_from(contrast.values, contrast.draws, contrast.n_groups)
    row: dict[str, Any] = {"n_blocks": study.n_blocks, "stable_layer": stable}
    if choice is None:
        row["reason"] = contrast.reason or "no window of blocks has a change at every layer"
    else:
        found.choices[condition, labels["measure"], labels["variant"]] = choice
        row |= _choice_row(choice)
        if choice.again_share is None:
            row["reason"] = contrast.no_interval or "no bootstrap for a measure of pairs of prompts"
    found.add("layer_choice", [row], **labels, condition=condition)


def _choice_row(choice: Choice) -> dict[str, Any]:
    def first(blocks: tuple[int, ...] | None) -> int | None:
        return None if blocks is None else blocks[0]

    return {
        "first_block": choice.blocks[0],
        "last_block": choice.blocks[-1],
        "change": choice.mean_change,
        "again_share": choice.again_share,
        "overlap_share": choice.overlap_share,
        "runner_up_first_block": first(choice.runner_up),
        "runner_up_change": choice.runner_up_change,
        "apart_first_block": first(choice.apart),
        "apart_change": choice.apart_change,
    }


def _number(value: float) -> float | None:
    """A number for a table: None for NaN."""
    return None if np.isnan(value) else float(value)


def known_measures(names: Sequence[str]) -> tuple[Measure, ...]:
    """Measures by name, in the order of `MEASURES`."""
    return tuple(measure for name, measure in MEASURES.items() if name in names)
