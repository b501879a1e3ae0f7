"""The linear lens as a record: moments of the corpus part by part, then maps, then figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lensbench.fitting.linear import STRENGTHS, Centred, calibration, ridge
from lensbench.fitting.moments import Moments
from lensbench.fitting.quality import FIRST, Measured, measure
from lensbench.fitting.tables import documents_table, quality_table
from lensbench.fitting.windows import Part as CorpusPart
from lensbench.fitting.windows import Window
from lensbench.lens.base import Final, Lens
from lensbench.lens.fitted.affine import Affine, AffineMap
from lensbench.lens.fitted.artifact import FILE, to_bytes
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.progress import Progress, Watch
from lensbench.prompts.batch import plan_batches
from lensbench.records.engine import Job
from lensbench.records.parts import Part, Parts
from lensbench.records.recording import Finished
from lensbench.residuals.capture import capture_positions

_MOST_JOBS = 8  # so much of the work is lost at most when a fit is interrupted
_DISK_BYTES = 20e9  # for the moments of all jobs, until the fit is finished


@dataclass(frozen=True)
class Fitter:
    """What the jobs of a fit are done with."""

    model: LensModel
    batch_tokens: int


def jobs(model: LensModel, windows: Sequence[Window]) -> list[list[Window]]:
    """The windows in as many parts as there is room for moments on the disk."""
    part_bytes = 3 * 8 * model.n_layers * model.d_model**2
    n_jobs = int(min(_MOST_JOBS, max(_DISK_BYTES // part_bytes, 1), len(windows)))
    size = -(-len(windows) // n_jobs)
    return [list(windows[start : start + size]) for start in range(0, len(windows), size)]


def gather(fitter: Fitter, job: Job[list[Window]]) -> Part:
    """The moments of some windows. The same job yields the same bytes."""
    model, windows = fitter.model, job.item
    sites = _sites(model)
    moments = Moments.none(model.n_layers, model.d_model)
    dealer = torch.Generator().manual_seed(job.number)
    lengths = [len(window.token_ids) for window in windows]
    for items in plan_batches(lengths, fitter.batch_tokens, model.rope_switch):
        ids = [windows[item].token_ids for item in items]
        positions = [range(FIRST, len(one)) for one in ids]
        stream = capture_positions(model, ids, positions, sites).stream.cpu()
        deal = torch.randperm(stream.shape[1], generator=dealer)
        moments.add(stream[:-1], stream[-1], deal)
    table = documents_table(model.name, {"fit": windows})
    return Part({"fit_documents": table}, files={_moments_file(job.number): moments.to_bytes()})


def _moments_file(number: int) -> str:
    """Among the parts, which are removed when the record is finished."""
    return f"parts/moments-{number:06d}.safetensors"


def _merged(parts: Parts) -> Moments:
    """The moments of all jobs, added in their order."""
    folder = parts.folder.parent
    files = [folder / _moments_file(number) for number in parts.numbers]
    whole, *others = (Moments.of_bytes(file.read_bytes()) for file in files)
    for own in others:
        whole.merge(own)
    return whole


@dataclass(frozen=True)
class Solved:
    """Maps by layer: of the lens and of the controls that it carries; the strength of each."""

    lens: dict[int, AffineMap]
    controls: dict[str, dict[int, AffineMap]]
    strengths: dict[int, float]


def solve(fitter: Fitter, moments: Moments, choose: Sequence[Window]) -> Solved:
    """The maps, each with the strength that reads the windows of `choose` best (least KL)."""
    layers = range(fitter.model.n_layers)
    centred = [Centred.of(moments, layer) for layer in layers]
    tried = [ridge(one) for one in centred]
    candidates = {
        f"strength {strength:g}": {layer: tried[layer][i] for layer in layers}
        for i, strength in enumerate(STRENGTHS)
    }
    best = _measured(fitter, candidates, choose).mean_kl_bits.argmin(0)
    shuffled = [ridge(Centred.of(moments, layer, shuffled=True)) for layer in layers]
    return Solved(
        {layer: tried[layer][best[layer]] for layer in layers},
        {
            "calibration": {layer: calibration(centred[layer]) for layer in layers},
            "shuffled": {layer: shuffled[layer][best[layer]] for layer in layers},
        },
        {layer: STRENGTHS[best[layer]] for layer in layers},
    )


def finished(
    fitter: Fitter, parts: Parts, windows: Mapping[CorpusPart, Sequence[Window]], watch: Watch
) -> Finished:
    """The lens' file and tables, from the moments of all jobs."""
    model = fitter.model
    watch(Progress(f"solving {model.n_layers} layers and choosing their strength"))
    solved = solve(fitter, _merged(parts), windows["choose"])
    watch(Progress("measuring on held-out text"))
    maps = {"fitted": solved.lens, **solved.controls}
    measured = _measured(fitter, maps, windows["test"], Final(model))
    strengths = {
        (name, layer): strength
        for name in ("fitted", "shuffled")
        for layer, strength in solved.strengths.items()
    }
    readings = [*maps, "final"]
    quality = quality_table(model, readings, _sites(model), measured, strengths)
    return Finished(
        [],
        {"fit_documents": documents_table(model.name, windows), "fit_quality": quality},
        files={FILE: to_bytes(solved.lens)},
    )


def _sites(model: LensModel) -> list[Site]:
    return model.sites(("embed", "resid_post"))


def _measured(
    fitter: Fitter,
    maps: Mapping[str, Mapping[int, AffineMap]],
    windows: Sequence[Window],
    *others: Lens,
) -> Measured:
    model = fitter.model
    lenses: list[Lens] = [Affine(model, own, name) for name, own in maps.items()]
    return measure(model, [*lenses, *others], _sites(model), windows, fitter.batch_tokens)
