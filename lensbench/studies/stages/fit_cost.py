"""What fitting a lens takes, counted before there is a text: of windows as the spec wants them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef
from lensbench.corpora.corpus import Document
from lensbench.corpora.written import TOGETHER, written_seed
from lensbench.costs.cost import Cost, total
from lensbench.costs.outlined import Outlined
from lensbench.costs.planned import Jobs, Planned, plan_record
from lensbench.costs.shape import Shape
from lensbench.fitting.method import Fitter
from lensbench.fitting.methods import METHODS
from lensbench.fitting.quality import FIRST
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.windows import Window, wanted_tokens
from lensbench.models.model import LensModel
from lensbench.records.recording import Request, Standing
from lensbench.records.store import RecordStore
from lensbench.studies.stages.fit import asked_for, used
from lensbench.studies.stages.fit_arithmetic import FitCost

# Settings that are known once texts are read, or written.
_CORPORA = ("corpus", "corpus_sha256", "also", "also_sha256")
_UNREAD = Document("text that is not read yet", "", "")


def plan_fits(hows: Mapping[Path, FitSpec]) -> Iterator[Planned]:
    """The lenses that one model's study fits, each into its folder.

    Texts that the model writes are counted once for lenses that read the same ones.
    """
    written: dict[tuple[str, int], int] = {}
    for folder, spec in hows.items():
        source = (spec.corpus, spec.window)
        there = written.get(source, 0)
        wanted = sum(wanted_tokens(spec).values())
        written[source] = max(there, wanted)
        ref = ModelRef.of(spec.model)
        store = RecordStore(folder, str(ref), "lens_fit")
        yield plan_record(
            f"{ref}, {spec.method} lens",
            ref,
            Request(store, spec.settings(), tables=asked_for(spec), decided=_CORPORA),
            partial(_jobs, spec, max(wanted - there, 0)),
            spec.dtype,
            spec.device,
            "fit",
        )


def _jobs(spec: FitSpec, n_written: int, known: Outlined[LensModel], _: Standing) -> Jobs[Any]:
    """The jobs of a fit, planned by its method; `n_written`: tokens that the model has to write."""
    model, shape = known.model, known.shape
    capped = model.readout.soft_cap is not None
    fit = FitCost.before_reading(shape, model.n_layers, model.n_ctx, spec, capped)
    windows = {part: [Window(_UNREAD, (0,) * n) for n in own] for part, own in fit.lengths.items()}
    use = used(spec)
    once = fit.finishing() + Cost(working_bytes=shape.held(use.verb, use.batch))
    if written_seed(spec.corpus) is not None:
        once += _writing(shape, n_written, min(spec.window, model.n_ctx))
    items = METHODS[spec.method].jobs(Fitter(model, spec, windows))
    return Jobs([items], partial(_JOB[spec.method], fit), once)


def _writing(shape: Shape, n_tokens: int, each: int) -> Cost:
    """Texts drawn token by token, `TOGETHER` of them side by side."""
    n_groups = math.ceil(n_tokens / each / TOGETHER)
    steps = total(shape.batch(TOGETHER, 1, 1, before) for before in range(each - 1))
    return total([steps] * n_groups)


def _of_windows(fit: FitCost, item: Sequence[Window]) -> Cost:
    """A job of the linear lens."""
    lengths = [len(window.token_ids) for window in item]
    n_states = sum(lengths) - FIRST * len(lengths)
    left = Cost(scratch_bytes=fit.moments_bytes)
    return fit.over(lengths) + fit.moments(n_states, fit.n_layers) + left


def _of_layers(fit: FitCost, item: Sequence[int]) -> Cost:
    """A job of the tuned lens, whose start is the linear one."""
    n_states, n_layers, width = fit.n_states("fit"), len(item), fit.shape.d_model
    states = fit.passes("fit") + fit.passes("choose")
    held = Cost(working_bytes=4 * (n_layers + 1) * n_states * width)
    left = Cost(scratch_bytes=4 * 4 * n_layers * width**2)
    solved = fit.moments(n_states, n_layers) + fit.solving(n_layers)
    return states + solved + fit.training(n_layers) + held + left


def _of_texts(fit: FitCost, item: Sequence[Window]) -> Cost:
    """A job of the Jacobian lens."""
    left = Cost(scratch_bytes=8 * fit.n_layers * fit.shape.d_model**2)
    return total(fit.jacobian(len(window.token_ids)) for window in item) + left


_JOB: Mapping[str, Callable[[FitCost, Any], Cost]] = {
    "linear": _of_windows,
    "tuned": _of_layers,
    "jacobian": _of_texts,
}
