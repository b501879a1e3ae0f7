"""A fitted map of float32 is that of float64, whatever cancels in it."""

from __future__ import annotations

import pytest
import torch

from lensbench.lens.fitted.affine import AffineMap

WIDTH = 48


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4, 1e6])
def test_a_map_in_which_large_terms_cancel(size: float) -> None:
    """A massive activation that the map takes out again, by its slope or by its shift."""
    draw = torch.Generator().manual_seed(0)
    A, b = torch.randn(WIDTH, WIDTH, generator=draw), torch.randn(WIDTH, generator=draw)
    x = torch.randn(6, WIDTH, generator=draw)
    x[:3, 0] = size
    x[:2, 1] = -size
    A[1] = A[0]  # rows 0 and 1: what state 0 adds, state 1 takes away
    b -= size * A[0]  # row 2: the shift does
    exact = x.double() @ A.double() + b.double()
    off = (AffineMap(A, b)(x) - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert (off[2] < 1e-6) & (off < 2e-6).all()


def test_ordinary_states_are_mapped_by_one_float32_product() -> None:
    draw = torch.Generator().manual_seed(1)
    A, b, x = (torch.randn(*s, generator=draw) for s in [(WIDTH, WIDTH), (WIDTH,), (9, WIDTH)])
    assert torch.equal(AffineMap(A, b)(x), x @ A + b)
