"""Moments and maps against numpy, scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge  # type: ignore[import-untyped]

from lensbench.errors import ModelError
from lensbench.fitting.linear import STRENGTHS, Centred, calibration, ridge
from lensbench.fitting.linear_lens import least_kl
from lensbench.fitting.moments import Moments

N, D = 400, 6


def states(seed: int, n: int = N, n_layers: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated states of some layers, off the origin, and targets that they half explain."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(n_layers, D, D, generator=g)
    x = torch.randn(n_layers, n, D, generator=g) @ mix + 3 * torch.randn(
        n_layers, 1, D, generator=g
    )
    y = x[0] @ torch.randn(D, D, generator=g) + torch.randn(n, D, generator=g) + 5.0
    return x, y


def moments_of(x: torch.Tensor, y: torch.Tensor, pieces: int = 1) -> Moments:
    whole = Moments.none(len(x), D)
    g = torch.Generator().manual_seed(0)
    for part in torch.arange(len(y)).chunk(pieces):
        own = Moments.none(len(x), D)
        own.add(x[:, part], y[part], torch.randperm(len(part), generator=g))
        whole.merge(Moments.of_bytes(own.to_bytes()))
    return whole


@given(st.integers(0, 100), st.integers(1, 7))
def test_moments_are_those_of_all_tokens_however_they_come(seed: int, pieces: int) -> None:
    x, y = states(seed)
    for layer in range(2):
        own = Centred.of(moments_of(x, y, pieces), layer)
        together = np.hstack([x[layer].double().numpy(), y.double().numpy()])
        covariance = np.cov(together.T, bias=True)
        np.testing.assert_allclose(own.xx, covariance[:D, :D], rtol=1e-9, atol=1e-9)
        # Products of float32 numbers in float32: roundings of the sizes of both.
        spread = np.sqrt(np.outer(*np.split(covariance.diagonal(), 2)))
        assert (np.abs(own.xy.numpy() - covariance[:D, D:]) < 16 * 2.0**-24 * spread).all()


@given(st.integers(0, 50), st.sampled_from([0.0, 1e2, 1e4]))
def test_products_of_states_and_targets_are_as_near_as_is_said(seed: int, offset: float) -> None:
    """Each number within (n + 2) roundings of the terms that it is a sum of, about their means."""
    x, y = states(seed, n=90, n_layers=1)
    x, y = x + offset, y - offset
    moments = moments_of(x, y)
    exact_x, exact_y = x[0].double(), y.double()
    off = (moments.xy[0] - exact_x.T @ exact_y).abs()
    centred = (exact_x - exact_x.mean(0)).abs(), (exact_y - exact_y.mean(0)).abs()
    exact_sums = 1e-13 * exact_x.abs().T @ exact_y.abs()  # float64's own
    assert bool((off <= 92 * 2.0**-24 * centred[0].T @ centred[1] + exact_sums).all())
    np.testing.assert_allclose(moments.xx[0].triu(), (exact_x.T @ exact_x).triu(), rtol=1e-13)


def test_a_planted_map_is_found_far_from_the_origin() -> None:
    """States and targets whose means are a thousand times what they vary by."""
    x, _ = states(8, n=5000)
    slope = torch.randn(D, D, generator=torch.Generator().manual_seed(9))
    x[1] += 1e3 * x[1].std(0)
    found = ridge(Centred.of(moments_of(x, x[1] @ slope, 5), 1), (1e-12,))[0]
    np.testing.assert_allclose(found.A, slope, atol=2e-3)


@pytest.mark.parametrize("place", range(len(STRENGTHS)))
def test_the_ridge_is_scikit_learns(place: int) -> None:
    x, y = states(1)
    own = Centred.of(moments_of(x, y, 3), 0)
    alpha = N * STRENGTHS[place] * x[0].double().var(0, correction=0).mean().item()
    fitted = Ridge(alpha=alpha, solver="cholesky").fit(x[0].double().numpy(), y.double().numpy())
    slope, shift = ridge(own)[place]
    np.testing.assert_allclose(slope, fitted.coef_.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shift, fitted.intercept_, rtol=1e-4, atol=1e-4)


def test_a_planted_map_is_found_again() -> None:
    x, _ = states(2)
    g = torch.Generator().manual_seed(3)
    slope, shift = torch.randn(D, D, generator=g), torch.randn(D, generator=g)
    found = ridge(Centred.of(moments_of(x, x[1] @ slope + shift), 1), (1e-12,))[0]
    np.testing.assert_allclose(found.A, slope, atol=1e-4)
    np.testing.assert_allclose(found.b, shift, atol=1e-3)


def test_calibration_is_the_best_single_number() -> None:
    x, y = states(4)
    slope, shift = calibration(Centred.of(moments_of(x, y), 0))
    a = (x[0] - x[0].mean(0)).double().reshape(-1, 1).numpy()
    b = (y - y.mean(0)).double().reshape(-1).numpy()
    best = np.linalg.lstsq(a, b, rcond=None)[0][0]
    np.testing.assert_allclose(slope, best * np.eye(D), atol=1e-5)
    np.testing.assert_allclose(x[0].mean(0) @ slope + shift, y.mean(0), atol=1e-4)


def test_targets_dealt_out_anew_teach_nothing() -> None:
    x, y = states(5, n=20_000)
    moments = moments_of(x, y)
    found = ridge(Centred.of(moments, 0, shuffled=True))[0]
    spread = y.double().var(0, correction=0).sum()
    explained = found(x[0]).double().var(0, correction=0).sum() / spread
    assert float(explained) < 5 * D / 20_000
    assert float(ridge(Centred.of(moments, 0))[0](x[0]).double().var(0).sum() / spread) > 0.5


@pytest.mark.parametrize("at", [7.0, 7.1])  # 7.1 has no exact square: what is left is rounding
@pytest.mark.parametrize("what", ["all alike", "one dimension alike"])
def test_what_never_varies_is_read_as_the_mean(what: str, at: float) -> None:
    x, y = states(6)
    x[0, :, 0 if what == "one dimension alike" else slice(None)] = at
    for found in ridge(Centred.of(moments_of(x, y), 0)):
        assert bool(found.A.isfinite().all())
        assert float(found.A[0].abs().max()) < 1e-6
        if what == "all alike":
            np.testing.assert_allclose(found(x[0]), y.mean(0).expand(N, D), atol=1e-4)


def test_fewer_tokens_than_dimensions_hold() -> None:
    x, y = states(7, n=4)
    for found in ridge(Centred.of(moments_of(x, y), 0)):
        assert float((found(x[0]) - y).abs().max()) < 1e3
        assert float(found.A.abs().max()) < 1e3


def test_a_strength_that_gives_nan_is_never_the_best() -> None:
    nan, inf = np.nan, np.inf
    kl = np.array([[nan, 2.0, inf], [3.0, 1.0, 9.0], [2.0, nan, 8.0]])  # [strength, layer]
    assert least_kl(kl, [0, 4, 5]) == {0: 2, 4: 1, 5: 2}
    kl[:, [0, 2]] = [[nan, inf], [nan, nan], [inf, nan]]
    with pytest.raises(ModelError, match="layers 0, 5 reads NaN or Inf at every strength"):
        least_kl(kl, [0, 4, 5])
