"""What a fit is counted to take, held to the products that torch makes, each stage by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lensbench.corpora.corpus import Document
from lensbench.costs.shape import shape_of
from lensbench.fitting.causal.record import fidelity_table
from lensbench.fitting.jacobian import jacobian
from lensbench.fitting.linear import Centred
from lensbench.fitting.linear_lens import control_quality, solve
from lensbench.fitting.method import Fitter
from lensbench.fitting.moments import Moments
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.tuned import White, train
from lensbench.fitting.tuned_lens import _states
from lensbench.fitting.windows import Part, Window
from lensbench.lens.base import Final
from lensbench.models.untrained import untrained
from lensbench.studies.stages.fit_arithmetic import _EIGENVECTORS, FitCost
from tests.harness.tiny import Case

_SPEC = FitSpec("", tokens=320, choose_tokens=64, test_tokens=96, window=32, directions=4)
_SPEC = _SPEC.changed(batch_tokens=96)
_EACH = 32  # tokens of a text, 31 states
_AGAIN = 1.25  # what is read again in float64, beyond a bound, goes by the numbers, not by shapes
aten = torch.ops.aten


def _products(*given: Any, out_val: Tensor, **_: Any) -> int:
    """2 n m k, twice that in float64; of a sum in place the matrices come second and third."""
    first, second = [one for one in given if isinstance(one, Tensor)][-2:]
    n = 2 * first.numel() * second.shape[-1]
    return n * (2 if out_val.dtype == torch.float64 else 1)


_products._get_raw = True  # type: ignore[attr-defined]
_COUNTED = dict.fromkeys((aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm), _products)


def counted(work: Callable[[], object]) -> int:
    """Operations that torch makes, one in float64 counted twice."""
    counter = FlopCounterMode(display=False, custom_mapping=_COUNTED)
    counter.mod_tracker = _NoModules()  # its own puts hooks on what takes gradients
    with counter:
        work()
    return int(counter.get_total_flops())


class _NoModules:
    """Counts are not told apart by module."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def windows(case: Case) -> dict[Part, list[Window]]:
    """Texts by chance, all of one length."""
    chance = random.Random(0)
    ids = sorted({token for own in case.token_ids for token in own})

    def some(n: int) -> list[Window]:
        document = Document("chance", "", "")
        return [Window(document, tuple(chance.choices(ids, k=_EACH))) for _ in range(n)]

    return {"fit": some(10), "choose": some(2), "test": some(3)}


def fit_of(case: Case, spec: FitSpec = _SPEC) -> tuple[Fitter, FitCost]:
    model, own = case.model, windows(case)
    _ = model.shares_prefixes  # found out by passes of its own
    lengths = {part: [len(one.token_ids) for one in texts] for part, texts in own.items()}
    capped = model.readout.soft_cap is not None
    cost = FitCost(shape_of(model), model.n_layers, spec, lengths, capped)
    return Fitter(model, spec, own), cost


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "gpt2")]


@pytest.fixture(params=["llama", *_SLOW])
def case(request: pytest.FixtureRequest, tiny_case: Callable[[str], Case]) -> Case:
    return tiny_case(request.param)


def moments_of(fitter: Fitter) -> Moments:
    states = list(fitter.states(fitter.windows["fit"], fitter.sites))
    return Moments.of(states, fitter.model.n_layers, fitter.model.d_model, seed=0)


def eigenvectors(fitter: Fitter, n_layers: int) -> float:
    """Which are no products of matrices, so torch does not count them."""
    return float(2 * _EIGENVECTORS * n_layers * fitter.model.d_model**3)


def test_states_and_moments(case: Case) -> None:
    fitter, cost = fit_of(case)
    made = counted(lambda: list(fitter.states(fitter.windows["fit"], fitter.sites)))
    assert cost.passes("fit").flops == made
    states = list(fitter.states(fitter.windows["fit"], fitter.sites))
    width, n_layers = fitter.model.d_model, fitter.model.n_layers
    summed = counted(lambda: Moments.of(states, n_layers, width, seed=0))
    assert cost.moments(fitter.n_states("fit"), n_layers).flops == pytest.approx(summed, rel=1e-6)


def test_maps_and_the_choice_of_their_strength(case: Case) -> None:
    fitter, cost = fit_of(case)
    moments, layers = moments_of(fitter), range(fitter.model.n_layers)
    made = counted(lambda: solve(fitter, layers, moments))
    told = cost.solving(len(layers)).flops - eigenvectors(fitter, len(layers))
    assert 0.98 * told <= made <= _AGAIN * told


def test_what_is_measured_on_held_out_text(case: Case) -> None:
    fitter, cost = fit_of(case)
    solved = solve(fitter, range(fitter.model.n_layers), moments_of(fitter))
    maps = {"fitted": solved.lens, **solved.others}
    final = Final(fitter.model)
    made = counted(lambda: fitter.measured(maps, fitter.sites, "test", final))
    assert cost.measuring().flops == pytest.approx(made, rel=0.02)


def test_the_control_of_an_untrained_model(case: Case) -> None:
    fitter, cost = fit_of(case)
    other = replace(fitter, source=untrained(fitter.model))
    made = counted(lambda: control_quality(other))
    told = cost.control().flops - eigenvectors(fitter, fitter.model.n_layers)
    assert 0.95 * told <= made <= _AGAIN * told


def test_directions_that_are_removed(case: Case) -> None:
    fitter, cost = fit_of(case)
    solved = solve(fitter, range(fitter.model.n_layers), moments_of(fitter))
    maps = {"fitted": solved.lens, **solved.others}
    made = counted(lambda: fidelity_table(fitter, maps))
    assert cost.fidelity().flops == pytest.approx(made, rel=0.05)


def test_a_tuned_lens_that_trains_to_its_end(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every check finds a better map; a training that stops earlier takes less."""
    monkeypatch.setattr("lensbench.fitting.tuned._Training.goes_on", True)
    fitter, cost = fit_of(case, _SPEC.changed(method="tuned", epochs=3))
    moments, layers = moments_of(fitter), tuple(range(fitter.model.n_layers))
    solved = solve(fitter, layers, moments)
    whites = [White.of(Centred.of(moments, i), 0.1) for i in layers]
    starts, parts = list(solved.lens.values()), ("fit", "choose")
    states, held_out = (_states(fitter, part, layers) for part in parts)  # type: ignore[arg-type]
    readout = fitter.model.readout
    made = counted(lambda: train(readout, starts, whites, states, held_out, 1e-4, 3))
    n_checks = fitter.spec.epochs + 1  # a check a step, of which there is one an epoch
    spared = (13 - n_checks) * fitter.n_states("choose")
    unchecked = cost.rows(spared * len(layers)).flops + spared * cost.shape.row_flops
    assert cost.training(len(layers)).flops - unchecked == pytest.approx(made, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_jacobian_of_a_text(name: str, tiny_case: Callable[[str], Case]) -> None:
    fitter, cost = fit_of(tiny_case(name), _SPEC.changed(method="jacobian"))
    model, ids = fitter.model, fitter.windows["fit"][0].token_ids
    made = counted(lambda: jacobian(model, ids, fitter.sites[:-1], fitter.spec.batch_tokens))
    assert cost.jacobian(_EACH).flops == pytest.approx(made, rel=0.05)
