"""The linear lens as a record: moments of the corpus part by part, then maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from lensbench.errors import InputProblems, ModelError, Problem
from lensbench.fitting.linear import STRENGTHS, Centred, calibration, ridge
from lensbench.fitting.method import Fitter, Method, Solved
from lensbench.fitting.moments import Moments
from lensbench.fitting.tables import documents_table, quality_table
from lensbench.fitting.windows import Window, total_tokens
from lensbench.records.engine import Job
from lensbench.records.parts import Part, Parts
from lensbench.spec import ranges

MOST_JOBS = 8  # so much of the work is lost at most when a fit is interrupted
UNTRAINED = "untrained"  # the control that reads a model which has learnt nothing
_DISK_BYTES = 20e9  # for what all jobs leave, until the fit is finished


def _jobs(fitter: Fitter) -> list[list[Window]]:
    """The windows in as many parts as there is room for moments on the disk."""
    require_determined(fitter)
    model = fitter.model
    return shared_out(fitter.windows["fit"], 3 * 8 * model.n_layers * model.d_model**2, MOST_JOBS)


def require_determined(fitter: Fitter) -> None:
    """Raise InputProblems, with the number needed, for fewer states than a state has dimensions.

    A ridge has an answer there too, and one that reads worse than the bare state.
    """
    n_states, width = fitter.n_states("fit"), fitter.model.d_model
    if n_states <= width:
        per_state = total_tokens(fitter.windows["fit"]) / n_states
        what = f"{n_states} states do not determine a map of {width} dimensions"
        remedy = f"Give --tokens {math.ceil(per_state * (width + 1))} or more."
        raise InputProblems([Problem("tokens", what, remedy)])


def shared_out(windows: Sequence[Window], part_bytes: int, most: int) -> list[list[Window]]:
    """Windows in at most so many jobs, each of which leaves so many bytes on the disk."""
    n_jobs = int(min(most, max(_DISK_BYTES // part_bytes, 1), len(windows)))
    size = -(-len(windows) // n_jobs)
    return [list(windows[start : start + size]) for start in range(0, len(windows), size)]


def _gather(fitter: Fitter, job: Job[list[Window]]) -> Part:
    """The moments of some windows. The same job yields the same bytes."""
    model, states = fitter.model, fitter.states(job.item, fitter.sites)
    moments = Moments.of(states, model.n_layers, model.d_model, seed=job.number)
    table = documents_table(model.name, {"fit": job.item})
    return Part({"fit_documents": table}, files={_moments_file(job.number): moments.to_bytes()})


def _moments_file(number: int) -> str:
    """Among the parts, which are removed when the record is finished."""
    return f"parts/moments-{number:06d}.safetensors"


def _merged(parts: Parts) -> Moments:
    """The moments of all jobs, added in their order: those of one are as large as of all."""
    first, *others = parts.numbers
    whole = Moments.of_bytes(parts.file(first, _moments_file(first)))
    for number in others:
        whole.merge(Moments.of_bytes(parts.file(number, _moments_file(number))))
    return whole


def solve(fitter: Fitter, layers: Sequence[int], moments: Moments) -> Solved:
    """The maps of some layers, whose moments these are in their order, and of the controls.

    Each has the strength that reads the part `choose` best (least KL).
    """
    centred = {layer: Centred.of(moments, place) for place, layer in enumerate(layers)}
    tried = {layer: ridge(one) for layer, one in centred.items()}
    candidates = {
        f"strength {strength:g}": {layer: maps[i] for layer, maps in tried.items()}
        for i, strength in enumerate(STRENGTHS)
    }
    sites = [fitter.sites[layer] for layer in layers]
    best = least_kl(fitter.mean_kl_bits(candidates, sites, "choose"), layers)
    strengths = {layer: STRENGTHS[best[layer]] for layer in layers}
    shuffled = {
        layer: ridge(
            Centred.of(moments, place, shuffled=True), [strengths[layer]], like=centred[layer]
        )[0]
        for place, layer in enumerate(layers)
    }
    return Solved(
        {layer: tried[layer][best[layer]] for layer in layers},
        {
            "calibration": {layer: calibration(one) for layer, one in centred.items()},
            "shuffled": shuffled,
        },
        {"fitted": strengths, "shuffled": strengths},
    )


def least_kl(kl_bits: Float[np.ndarray, "strength layer"], layers: Sequence[int]) -> dict[int, int]:
    """Of each layer, the number of the strength whose KL is least; what is NaN never is.

    Raises ModelError, with the layers, where every strength gives NaN or Inf.
    """
    known = np.where(np.isnan(kl_bits), np.inf, kl_bits)
    broken = [layer for layer, least in zip(layers, known.min(0), strict=True) if least == np.inf]
    if broken:
        raise ModelError(
            f"The ridge of layer{'s' if len(broken) > 1 else ''} {ranges(broken, ', ')} reads "
            "NaN or Inf at every strength. Give --dtype float32, or another corpus."
        )
    return dict(zip(layers, known.argmin(0).tolist(), strict=True))


def control_quality(fitter: Fitter) -> pa.Table:
    """The figures of the linear lens of the fitter's source, below the last layer.

    From the states of an untrained model: how much of the model's output the map alone can compute
    of what stands before (Hewitt & Liang 2019, arXiv 1909.03368).
    """
    model, sites = fitter.model, fitter.sites
    states = fitter.states(fitter.windows["fit"], sites)
    moments = Moments.of(states, model.n_layers, model.d_model, seed=0)
    solved = solve(fitter, range(model.n_layers), moments)
    measured = fitter.measured({UNTRAINED: solved.lens}, sites[:-1], "test")
    strengths = {UNTRAINED: solved.strengths["fitted"]}
    return quality_table(model, [UNTRAINED], sites[:-1], measured, strengths)


def _solved(fitter: Fitter, parts: Parts) -> Solved:
    return solve(fitter, range(fitter.model.n_layers), _merged(parts))


LINEAR: Method[list[Window]] = Method(
    _jobs,
    _gather,
    _solved,
    unit="tokens",
    size=total_tokens,
)
