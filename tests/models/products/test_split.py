"""Heads in bfloat16 parts: the split is exact, and what products lose is within its bound."""

from __future__ import annotations

import math
from fractions import Fraction

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.models.products.split import SplitHead, split
from lensbench.models.readout import Readout
from tests.harness.vocabulary import exact_logits

EXACT_FROM = 2.0**-110  # a float32 number of this size has no bit below bfloat16's last, 2^-133
UNDERFLOW = Fraction(1, 2**134)

float32 = hnp.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_subnormal=True)
)


@given(float32)
def test_three_parts_are_the_number(values: np.ndarray) -> None:
    """With subnormals, the largest numbers, both zeros, infinities and NaN."""
    parts = split(torch.tensor(values))
    assert all(part.dtype == torch.bfloat16 for part in parts)
    for value, *own in zip(values.tolist(), *(part.tolist() for part in parts), strict=True):
        if not math.isfinite(value):
            assert own[0] == value or (math.isnan(own[0]) and math.isnan(value))
            assert own[1:] == [0, 0]
            continue
        assert all(math.isfinite(part) for part in own)
        off = abs(sum(map(Fraction, own)) - Fraction(value))
        assert off <= UNDERFLOW
        assert off == 0 or abs(value) < EXACT_FROM
        assert abs(own[2]) <= 2.0**-15 * abs(value)
        if value == 0:
            assert math.copysign(1, own[0]) == math.copysign(1, value)


@given(st.integers(0, 2**32 - 1))
def test_three_parts_of_any_bits(bits: int) -> None:
    value = np.uint32(bits).view(np.float32)
    parts = split(torch.tensor([value]))
    found = sum(Fraction(float(part)) for part in parts) if np.isfinite(value) else None
    if found is not None:
        assert abs(found - Fraction(float(value))) <= UNDERFLOW
        assert found == Fraction(float(value)) or abs(value) < EXACT_FROM


@pytest.mark.parametrize(
    ("dtype", "n_parts", "n_products"),
    [(torch.bfloat16, 1, 3), (torch.float16, 2, 5), (torch.float32, 3, 6)],
)
def test_a_head_has_the_parts_that_its_weights_need(
    dtype: torch.dtype, n_parts: int, n_products: int
) -> None:
    """Found of the weights, not of their dtype: bfloat16 ones in float32 are one part too."""
    stored = torch.randn(300, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    for weights in (stored.T, stored.float().T):
        head = SplitHead.of(weights)
        assert (len(head.parts), head.n_products) == (n_parts, n_products)
        assert torch.equal(sum(part.double() for part in head.parts), weights.double())
    if dtype == torch.bfloat16:
        assert SplitHead.of(stored.T).parts[0].data_ptr() == stored.data_ptr()  # no copy


def test_one_weight_of_many_is_enough_to_need_another_part() -> None:
    weights = torch.randn(20_000, 8).bfloat16().float()
    weights[17_000, 3] += 2.0**-9 * weights[17_000, 3]
    assert len(SplitHead.of(weights.T).parts) == 2
    assert len(SplitHead.of(torch.zeros(8, 100)).parts) == 1


@given(
    st.integers(1, 600),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([None, 30.0, 2.0]),
    st.sampled_from([1.0, 0.125, -16.0]),
    st.booleans(),
    st.sampled_from([1.0, 1e-3, 1e4]),
    st.integers(0, 2**16),
)
def test_products_are_as_near_as_float32s(
    d_model: int,
    dtype: torch.dtype,
    cap: float | None,
    scale: float,
    biased: bool,
    size: float,
    seed: int,
) -> None:
    """To float64: within the bound that decisions go by, and at most 4 times as far as float32."""
    generator = torch.Generator().manual_seed(seed)
    W_U = torch.randn(130, d_model, generator=generator).to(dtype)
    bias = torch.randn(130, generator=generator).to(dtype) if biased else None
    normed = size * torch.randn(6, d_model, generator=generator)
    readout = Readout(lambda x: x, W_U.T, bias, scale, cap)
    parts, exact = readout.in_parts(), exact_logits(readout, normed)
    off = (parts.logits(normed).double() - exact).abs()
    assert (off <= parts.rounding(normed).unsqueeze(1) * parts.n_roundings).all()
    plain = (readout.logits(normed).double() - exact).abs()
    floor = 2.0**-23 * exact.abs().amax(-1, keepdim=True)  # the spacing of the logits themselves
    assert (off.amax(-1, keepdim=True) <= 4 * plain.amax(-1, keepdim=True) + floor).all()
    assert torch.allclose(parts.in_float64(normed), exact, rtol=1e-12)


def test_the_bound_is_of_use() -> None:
    """Sums in which errors add up come within a hundredth of it; and of nothing it is nothing."""
    n = 1 << 14
    normed, head = torch.ones(1, n), torch.ones(n, 1)
    normed[0, 0] = 2.0**24  # every later term is lost by a sum from the left
    lost = torch.tensor(2.0**24)
    for _ in range(n - 1):
        lost = lost + 1
    readout = Readout(lambda x: x, head, None).in_parts()
    bound = float(readout.rounding(normed)) * readout.n_roundings
    assert abs(float(lost) - (2.0**24 + n - 1)) <= bound
    assert readout.rounding(torch.zeros(2, n)).tolist() == [0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_stays_none(bad: float) -> None:
    normed = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    normed[1, 3] = bad
    head = torch.randn(8, 70, generator=torch.Generator().manual_seed(1)).bfloat16()
    readout = Readout(lambda x: x, head, None)
    found, plain = readout.in_parts().logits(normed), readout.logits(normed)
    assert found[0].isfinite().all()
    assert torch.equal(found[1].isfinite(), plain[1].isfinite())


def test_shapes_and_places_are_those_of_any_logits() -> None:
    normed = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    head = torch.randn(5000, 8, generator=torch.Generator().manual_seed(1)).T
    readout = Readout(lambda x: x, head, None).in_parts()
    whole, out = readout.logits(normed), torch.empty(2, 3, 100)
    assert whole.shape == (2, 3, 5000)
    assert readout.logits(normed, slice(2000, 2100), out=out) is out
    torch.testing.assert_close(out, whole[..., 2000:2100])
    some = torch.tensor([4999, 0, 4096])
    torch.testing.assert_close(readout.logits(normed, some), whole[..., some])
