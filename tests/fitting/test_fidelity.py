"""Causal fidelity: planted models and lenses, Hugging Face's own passes, and closed forms."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from lensbench.fitting.causal.fidelity import (
    Directions,
    fidelity,
    removed,
    responses,
    spearman,
    stimuli,
)
from lensbench.fitting.spec import FitSpec
from lensbench.lens.base import Final
from lensbench.lens.fitted.affine import Affine, AffineMap
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.report.build import build_report
from lensbench.residuals.capture import capture_positions
from lensbench.studies.stages.fit import fit_lens
from tests.harness.files import tables
from tests.harness.tiny import Case

LAYER = 2
SITE = Site("resid_post", LAYER)


@pytest.fixture(scope="module")
def idle(llama: Case) -> LensModel:
    """The tiny model, whose blocks from LAYER on add nothing: its state there is the last one."""
    model = copy.deepcopy(llama.hf)
    with torch.no_grad():
        for block in model.model.layers[LAYER:]:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    return load_model(model, tokenizer=llama.model.tokenizer, device="cpu")


def texts(case: Case) -> list[list[int]]:
    return [list(ids)[:12] for ids in case.token_ids if len(ids) > 4][:3]


def states_of(model: LensModel, ids: list[list[int]]) -> torch.Tensor:
    positions = [range(1, len(one)) for one in ids]
    return capture_positions(model, ids, positions, [SITE]).stream[0]


def test_a_lens_that_is_the_model_moves_as_the_model_does(llama: Case, idle: LensModel) -> None:
    ids = texts(llama)
    directions = Directions.drawn(states_of(idle, ids), 10, seed=0)
    (found,) = fidelity(idle, {"final": Final(idle)}, SITE, ids, directions)
    assert found.n_directions == 10
    assert found.n_tokens == sum(len(one) - 1 for one in ids)
    assert found.spearman[0] == pytest.approx(1)
    assert found.partial[0] == pytest.approx(1)
    assert found.spearman[1:] == (None, None)  # at 1 there is no interval
    response = responses(idle, ids, SITE, directions, 64)
    stimulus = stimuli(Final(idle), states_of(idle, ids), SITE, directions)
    np.testing.assert_allclose(stimulus, response, rtol=1e-3, atol=1e-6)


def test_lenses_at_random_are_near_0_where_all_directions_hold_as_much(idle: LensModel) -> None:
    """States alike in all directions: the correlations of 40 lenses scatter about 0 as those of
    20 directions do by chance, by 1 / sqrt(19)."""
    width, n = idle.d_model, 20
    g = torch.Generator().manual_seed(0)
    states, _ = torch.linalg.qr(torch.randn(90, width, generator=g))
    states, shift = states * 90**0.5, torch.zeros(width)
    directions = Directions(torch.zeros(width), torch.eye(width)[:n], np.ones(n))
    response = stimuli(Final(idle), states, SITE, directions)
    found = []
    for _ in range(40):
        slope = torch.randn(width, width, generator=g) / width**0.5
        lens = Affine(idle, {LAYER: AffineMap(slope, shift)}, "random")
        found.append(spearman(stimuli(lens, states, SITE, directions), response)[0])
    values = np.array(found, dtype=float)
    assert abs(values.mean()) < 3 / 19**0.5 / 40**0.5
    assert 0.6 < values.std() * 19**0.5 < 1.4


def test_what_every_lens_owes_to_the_variance_is_not_counted_twice(
    llama: Case, idle: LensModel
) -> None:
    """By principal directions a lens at random is correlated too, and less given the variance."""
    ids, width = texts(llama), idle.d_model
    directions = Directions.drawn(states_of(idle, ids), 14, seed=1)
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(width, width, generator=g) / width**0.5 for _ in range(24)]
    shift = torch.zeros(width)
    lenses = {str(i): Affine(idle, {LAYER: AffineMap(A, shift)}, "") for i, A in enumerate(maps)}
    found = fidelity(idle, lenses, SITE, ids, directions)
    plain, partial = (
        np.nanmean(np.array([getattr(one, name)[0] for one in found], dtype=float))
        for name in ("spearman", "partial")
    )
    assert plain > 0.9
    assert partial < 0.5


def test_the_response_is_hugging_faces_own_pass_without_the_direction(llama: Case) -> None:
    model, ids = load_model(llama.folder, device="cpu"), texts(llama)
    directions = Directions.drawn(states_of(model, ids), 4, seed=2)
    found = responses(model, ids, SITE, directions, batch_tokens=30)
    block = llama.hf.model.layers[LAYER - 1]
    for i, unit in enumerate(directions.unit):

        def ablate(_: object, __: object, output: torch.Tensor, v: torch.Tensor = unit) -> object:
            state = output[0] if isinstance(output, tuple) else output
            moved = state - ((state - directions.mean) @ v)[..., None] * v
            moved = torch.cat([state[:, :1], moved[:, 1:]], dim=1)
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        bits = []
        for one in ids:
            with torch.no_grad():
                p = llama.hf(torch.tensor([one])).logits[0, 1:].double().log_softmax(-1)
                hook = block.register_forward_hook(ablate)
                q = llama.hf(torch.tensor([one])).logits[0, 1:].double().log_softmax(-1)
                hook.remove()
            bits.append((p.exp() * (p - q)).sum(-1) / np.log(2))
        assert found[i] == pytest.approx(float(torch.cat(bits).mean()), rel=1e-3)


def test_what_is_removed_is_at_the_mean_and_nothing_else_moves() -> None:
    g = torch.Generator().manual_seed(0)
    states = torch.randn(50, 6, generator=g) @ torch.randn(6, 6, generator=g) + 3
    directions = Directions.drawn(states, 6, seed=0)
    covariance = np.cov(states.T.double().numpy(), bias=True)
    np.testing.assert_allclose(
        sorted(directions.variances), np.linalg.eigvalsh(covariance), rtol=1e-4
    )
    unit = directions.unit[2]
    without = removed(states, directions.mean, unit)
    np.testing.assert_allclose(without @ unit, (directions.mean @ unit).expand(50), atol=1e-5)
    rest = torch.eye(6) - torch.outer(unit, unit)
    np.testing.assert_allclose(without @ rest, states @ rest, atol=1e-4)
    flat = torch.ones(9, 4)
    assert len(Directions.drawn(flat + torch.arange(9)[:, None], 3, seed=0).unit) == 1


def test_correlations_are_scipys_and_partial_ones_those_of_residuals() -> None:
    rng = np.random.default_rng(0)
    given = rng.normal(size=30)
    a, b = given + rng.normal(size=30), given + rng.normal(size=30)
    value, low, high = spearman(a, b)
    assert value == pytest.approx(stats.spearmanr(a, b).statistic)
    assert low is not None and high is not None and low < value < high
    partial, *_ = spearman(a, b, given)
    ranks = [stats.rankdata(one) for one in (a, b, given)]
    off = [one - np.polyval(np.polyfit(ranks[2], one, 1), ranks[2]) for one in ranks[:2]]
    assert partial == pytest.approx(stats.pearsonr(*off).statistic)
    assert spearman(a, np.ones(30)) == (None, None, None)
    assert spearman(a[:4], b[:4])[1:] == (None, None)


def test_the_interval_of_a_correlation_covers() -> None:
    """Of 12 normal pairs that correlate by .6, whose Spearman's is 6 asin(.3) / pi."""
    rng, truth, covered = np.random.default_rng(1), 6 * np.arcsin(0.3) / np.pi, 0
    for _ in range(400):
        x = rng.normal(size=(12, 2)) @ np.linalg.cholesky([[1, 0.6], [0.6, 1]]).T
        _, low, high = spearman(x[:, 0], x[:, 1])
        covered += low is not None and high is not None and low <= truth <= high
    assert 0.9 <= covered / 400 <= 0.99


def test_a_fit_has_the_table_and_its_report_shows_it(
    llama: Case, fit_spec: Callable[..., FitSpec], tmp_path: Path
) -> None:
    out = tmp_path / "linear"
    assert fit_lens(fit_spec(llama, directions=6), out).ok
    rows = tables(out)["fit_fidelity"]
    assert set(rows.reading) == {"fitted", "final", "random"}
    assert (rows.n_directions == 6).all()
    assert rows.spearman.between(-1, 1).all()
    build_report([out], tmp_path / "report")
    text = next((tmp_path / "report").rglob("report.md")).read_text(encoding="utf-8")
    assert "Causal fidelity" in text
