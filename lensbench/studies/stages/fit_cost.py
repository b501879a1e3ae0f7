"""What fitting a lens takes, counted before there is a text: of windows as the spec wants them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef
from lensbench.corpora.corpus import Document
from lensbench.corpora.written import TOGETHER, written_seed
from lensbench.costs.cost import Cost, total
from lensbench.costs.planned import Jobs, Outlined, Planned, plan_record
from lensbench.costs.shape import Shape
from lensbench.fitting.causal.record import DEPTHS, TEXTS, TOKENS
from lensbench.fitting.linear import STRENGTHS
from lensbench.fitting.method import Fitter
from lensbench.fitting.methods import METHODS
from lensbench.fitting.quality import FIRST
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.tuned import CHECKS
from lensbench.fitting.windows import Part as CorpusPart
from lensbench.fitting.windows import Window, wanted_tokens
from lensbench.records.recording import Request, Standing
from lensbench.records.store import RecordStore
from lensbench.studies.stages.fit import asked_for

_UNREAD = Document("text that is not read yet", "", "")
_SOLVING = 25  # d^3 operations a layer: of a symmetric matrix its eigenvectors, and a map of each
_READINGS = {"linear": 3, "tuned": 4, "jacobian": 5}  # lenses of a fit, its controls with them


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
            Request(store, spec.settings(), tables=asked_for(spec)),
            partial(_jobs, spec, max(wanted - there, 0)),
            spec.dtype,
            spec.device,
        )


@dataclass(frozen=True)
class _Fit:
    """A fit whose windows are all full, and none of them read yet."""

    known: Outlined
    fitter: Fitter

    @property
    def shape(self) -> Shape:
        return self.known.shape

    def passes(self, part: CorpusPart, n_columns: int = 0) -> Cost:
        """Over a part of the corpus, the logits of so many columns made."""
        return self.over(self.fitter.windows[part], n_columns)

    def over(self, windows: Sequence[Window], n_columns: int = 0) -> Cost:
        """Over some windows."""
        each = len(windows[0].token_ids)
        at_once = max(self.fitter.spec.batch_tokens // each, 1)
        sizes = [min(at_once, len(windows) - i) for i in range(0, len(windows), at_once)]
        return total(self.shape.batch(n, each, n_columns) for n in sizes)

    def moments(self, n_states: int, n_layers: int) -> Cost:
        """Three products of each state with itself or its target, summed."""
        return Cost(flops=6.0 * n_states * n_layers * self.shape.d_model**2)

    def rows(self, n: float) -> Cost:
        """Rows of logits, each of a state that a map was put before."""
        return Cost(flops=n * (self.shape.row_flops + 2 * self.shape.d_model**2))

    def solving(self, n_layers: int) -> Cost:
        """Maps of some layers, and which strength of the ridge reads `choose` best."""
        tried = n_layers * len(STRENGTHS) * self.fitter.n_states("choose")
        alone = Cost(flops=float(_SOLVING * n_layers * self.shape.d_model**3))
        return alone + self.passes("choose", self._columns("choose")) + self.rows(tried)

    def measuring(self, n_readings: int, part: CorpusPart = "test") -> Cost:
        """Readings of every state of a part of the corpus."""
        n_states = self.fitter.n_states(part)
        n_rows = n_states * (self.fitter.model.n_layers + 1) * n_readings
        return self.passes(part, self._columns(part)) + self.rows(n_rows)

    def fidelity(self, n_readings: int) -> Cost:
        """Directions removed one by one at a few layers, and what that does to model and lenses."""
        n, n_layers = self.fitter.spec.directions, len(DEPTHS)
        each = min(TOKENS, self.fitter.spec.window)
        texts = self.shape.batch(TEXTS * (n + 1), each, each)
        read = self.rows(TEXTS * (each - FIRST) * (n + 1) * n_readings)
        return total([texts + read] * n_layers) if n else Cost()

    def _columns(self, part: CorpusPart) -> int:
        return len(self.fitter.windows[part][0].token_ids) - FIRST


def _jobs(spec: FitSpec, n_written: int, known: Outlined, _: Standing) -> Jobs[Any]:
    """The jobs of a fit, planned by its method; `n_written`: tokens that the model has to write."""
    each = min(spec.window, known.model.n_ctx)
    window = Window(_UNREAD, (0,) * each)
    windows = {part: [window] * math.ceil(n / each) for part, n in wanted_tokens(spec).items()}
    fit = _Fit(known, Fitter(known.model, spec, windows))
    once = _finishing(fit)
    if written_seed(spec.corpus) is not None:
        once += _writing(known.shape, n_written, each)
    return Jobs([METHODS[spec.method].jobs(fit.fitter)], partial(_JOB[spec.method], fit), once)


def _writing(shape: Shape, n_tokens: int, each: int) -> Cost:
    """Texts drawn token by token, `TOGETHER` of them side by side."""
    n_groups = math.ceil(n_tokens / each / TOGETHER)
    steps = total(shape.batch(TOGETHER, 1, 1, before) for before in range(each - 1))
    return total([steps] * n_groups)


def _finishing(fit: _Fit) -> Cost:
    """What becomes of all jobs: maps, figures on held-out text, controls, files."""
    spec, model = fit.fitter.spec, fit.fitter.model
    n_layers, n_readings = model.n_layers, _READINGS[spec.method] + 1  # the logit lens beside them
    n_states = fit.fitter.n_states("fit")
    cost = fit.measuring(n_readings) + fit.fidelity(n_readings)
    again = fit.passes("fit") + fit.moments(n_states, n_layers) + fit.solving(n_layers)
    if spec.method == "linear":
        cost += fit.solving(n_layers)
    if spec.method == "jacobian":  # the linear lens of the same text beside it
        cost += again
    if not spec.no_untrained:
        cost += again + fit.passes("fit") + fit.measuring(1)
    if spec.also is not None:
        cost += fit.measuring(n_readings)
    n_windows = sum(map(len, fit.fitter.windows.values()))
    rows = {"fit_documents": n_windows, "fit_quality": n_readings * (n_layers + 1)}
    map_bytes = 4 * fit.shape.d_model * (fit.shape.d_model + 1)
    n_maps = n_layers + min(_READINGS[spec.method] - 1, 3)
    return cost + Cost(rows=rows, file_bytes=n_maps * map_bytes)


def _of_windows(fit: _Fit, item: Sequence[Window]) -> Cost:
    """A job of the linear lens."""
    n_layers, width = fit.fitter.model.n_layers, fit.shape.d_model
    n_states = sum(len(window.token_ids) - FIRST for window in item)
    left = Cost(scratch_bytes=3 * 8 * n_layers * width**2)
    return fit.over(item) + fit.moments(n_states, n_layers) + left


def _of_layers(fit: _Fit, item: Sequence[int]) -> Cost:
    """A job of the tuned lens: a step takes logits of every token, and their gradient back."""
    spec, n_states = fit.fitter.spec, fit.fitter.n_states("fit")
    n_chosen, n_layers, width = fit.fitter.n_states("choose"), len(item), fit.shape.d_model
    seen = spec.epochs * n_states
    steps = fit.rows(seen * (2 * n_layers + 1))
    checks = fit.rows((CHECKS + 1) * n_chosen * (n_layers + 1))
    states = fit.passes("fit") + fit.passes("choose")
    held = Cost(working_bytes=4 * (n_layers + 1) * n_states * width)
    left = Cost(scratch_bytes=4 * 4 * n_layers * width**2)
    solved = fit.moments(n_states, n_layers) + fit.solving(n_layers)
    return states + solved + steps + checks + held + left


def _of_texts(fit: _Fit, item: Sequence[Window]) -> Cost:
    """A job of the Jacobian lens: a pass back for each column, over as many copies of a text."""
    n_layers, width = fit.fitter.model.n_layers, fit.shape.d_model
    left = Cost(scratch_bytes=8 * n_layers * width**2)
    return total(_jacobian(fit, len(window.token_ids)) for window in item) + left


def _jacobian(fit: _Fit, n_tokens: int) -> Cost:
    at_once = min(max(fit.fitter.spec.batch_tokens // n_tokens, 1), fit.shape.d_model)
    one = fit.shape.batch(at_once, n_tokens, 0)
    return total([one] * (1 + math.ceil(fit.shape.d_model / at_once)))


_JOB: Mapping[str, Callable[[_Fit, Any], Cost]] = {
    "linear": _of_windows,
    "tuned": _of_layers,
    "jacobian": _of_texts,
}
