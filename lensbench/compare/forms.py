"""The same activations without what may dominate them: massive dimensions, the common mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lensbench.stats.resampling import Floats

TIMES_MEDIAN = 100.0


@dataclass(frozen=True)
class MassiveDimension:
    """A dimension that holds massive activations, and where it stands out most."""

    dimension: int
    layer: int  # where it stands out most
    n_layers: int  # layers at which the rule holds
    magnitude: float  # there, median over prompts
    times_median: float  # of the magnitudes of its own vector there, median over prompts


def massive_dimensions(values: Float[np.ndarray, "layer prompt d"]) -> list[MassiveDimension]:
    """Dimensions above 100 times the median magnitude of their vector at some layer, by number.

    Sun et al. (2024, "Massive activations in large language models") call an activation of one
    token massive above 100 in magnitude and about 1,000 times the median of its hidden state.
    Records hold means over tokens, in which the massive activation of one token (mostly the first)
    is diluted by their number, so a tenth of that ratio is taken here and no bound on the
    magnitude. The ratio is the median over prompts: one odd prompt makes no dimension massive.
    """
    magnitude = np.abs(values)
    typical = np.median(magnitude, axis=-1, keepdims=True)  # [layer, prompt, 1]
    ratios = np.divide(magnitude, typical, out=np.zeros_like(magnitude), where=typical > 0)
    times = np.median(ratios, axis=1)  # [layer, d]
    massive: Bool[np.ndarray, "layer d"] = times > TIMES_MEDIAN
    found = []
    for dimension in np.flatnonzero(massive.any(0)):
        layer = int(times[:, dimension].argmax())
        here = float(np.median(magnitude[layer, :, dimension]))
        n_layers = int(massive[:, dimension].sum())
        ratio = float(times[layer, dimension])
        found.append(MassiveDimension(int(dimension), layer, n_layers, here, ratio))
    return found


def massive_masks(
    found: Iterable[tuple[int, Sequence[MassiveDimension]]],
) -> dict[int, Bool[np.ndarray, " d"]]:
    """The massive dimensions of all conditions (with their widths), by width.

    One set for a width, so that every condition is compared over the same dimensions.
    """
    masks: dict[int, Bool[np.ndarray, " d"]] = {}
    for width, dimensions in found:
        mask = masks.setdefault(width, np.zeros(width, dtype=bool))
        mask[[one.dimension for one in dimensions]] = True
    return masks


def varied(
    values: Mapping[str, Floats], variant: str, massive: Mapping[int, Bool[np.ndarray, " d"]]
) -> dict[str, Floats]:
    """Every condition's vectors in one of `VARIANTS`.

    Centred: at each layer the mean over the prompts of all conditions is taken off, dimension by
    dimension. All of them, not two at a time, so that a swap of labels within a prompt leaves what
    is taken off as it is. Conditions of another width are centred among themselves.
    """
    if variant == "without_massive":
        return {name: own[..., ~massive[own.shape[-1]]] for name, own in values.items()}
    if variant == "centred":
        return {name: own - _common_mean(values, own.shape[-1]) for name, own in values.items()}
    assert variant == "as_is"
    return dict(values)


def _common_mean(values: Mapping[str, Floats], width: int) -> Float[np.ndarray, "layer 1 d"]:
    alike = [own.mean(1, keepdims=True) for own in values.values() if own.shape[-1] == width]
    mean: Floats = np.mean(alike, axis=0)  # every condition counts alike
    return mean
