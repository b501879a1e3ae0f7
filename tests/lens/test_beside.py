"""Distributions beside the model's, tile by tile, against whole ones in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.lens.vocabulary.beside import Beside
from lensbench.models import readout as heads
from lensbench.models.load import load_model
from lensbench.models.readout import Readout
from tests.harness.tiny import Case

WIDTH = 16


def head(d_vocab: int, seed: int, **more: float) -> Readout:
    g = torch.Generator().manual_seed(seed)
    return Readout(lambda x: x, torch.randn(WIDTH, d_vocab, generator=g), None, **more)


def bits(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().log_softmax(-1) / np.log(2)


def check(readout: Readout, n_rows: int, seed: int, size: float) -> None:
    """Two means over rows, of other weights, and every row of its own.

    Logits and probabilities are float32: off by a few roundings of the largest of them.
    """
    g = torch.Generator().manual_seed(seed)
    mine, other = size * torch.randn(2, n_rows, WIDTH, generator=g)
    weights = torch.rand(2, n_rows, generator=g)
    exact = [readout.in_float64(x) for x in (mine, other)]
    p, q = map(bits, exact)
    off = 8 * 2.0**-24 * (1 + max(float(logits.abs().max()) for logits in exact))
    beside = Beside(readout, readout.logits(mine), weights)
    found = beside.compare(other)
    expected = (p.exp2() * (p - q)).sum(-1)
    np.testing.assert_allclose(found.kl_bits, expected, rtol=off, atol=off)
    np.testing.assert_array_equal(found.top, q.argmax(-1))
    np.testing.assert_array_equal(beside.top, p.argmax(-1))
    np.testing.assert_allclose(found.confidence, q.amax(-1).exp2(), rtol=off)
    for means, probs in ((beside.means, p.exp2()), (found.means, q.exp2())):
        np.testing.assert_allclose(means, weights.double() @ probs, rtol=off, atol=off)
    alone = Beside(readout, readout.logits(mine)).compare(other)
    np.testing.assert_array_equal(alone.kl_bits, found.kl_bits)
    assert alone.means.shape == (0, q.shape[1])


@given(st.integers(2, 700), st.integers(1, 9), st.integers(0, 99), st.sampled_from([0.01, 1, 8]))
def test_each_number_is_that_of_whole_distributions(
    d_vocab: int, n_rows: int, seed: int, size: float
) -> None:
    """Also where the last tile is odd, or the only one; `size`: of flat and of sure rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "_TILE_TOKENS", 128)
        check(head(d_vocab, seed), n_rows, seed, size)


def test_bent_and_scaled_logits_are_compared_as_they_are() -> None:
    check(head(5000, 1, logit_scale=0.3, soft_cap=30.0), 7, 2, 3.0)


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "gpt2"])
@torch.inference_mode()
def test_the_model_beside_itself_is_at_0(tiny_case: Callable[[str], Case], name: str) -> None:
    """Its logits are rounded otherwise in tiles; the divergence is of their squares."""
    model = load_model(tiny_case(name).folder, device="cpu")
    states = torch.randn(20, model.d_model, generator=torch.Generator().manual_seed(3))
    normed = model.readout.norm(states)
    found = Beside(model.readout, model.readout.logits(normed)).compare(normed)
    assert float(found.kl_bits.max()) < 1e-7


def test_a_row_of_nan_is_nan_and_no_other_is() -> None:
    readout, rows = head(300, 4), torch.randn(3, WIDTH)
    other = rows.clone()
    other[1, 0] = torch.nan
    found = Beside(readout, readout.logits(rows)).compare(other)
    assert found.kl_bits.isnan().tolist() == [False, True, False]
