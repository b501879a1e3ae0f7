"""Products of float32 numbers on an accelerator are float32: nothing is rounded unsaid."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lensbench.errors import ModelError
from lensbench.models.load import load_model
from lensbench.models.readout import Readout
from lensbench.quantized.loading.load import load_quantized
from tests.harness.tiny import Case

pytestmark = pytest.mark.gpu
# Relative to the length of a product's terms: float32 is within 1e-6, TF32 3e-4, bfloat16 3e-3.
FLOAT32 = 3e-6


@pytest.fixture
def rounded() -> Iterator[None]:
    """As some other code of a process asks for it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 33, 700])
def test_logits_are_those_of_float64(device: str, dtype: torch.dtype, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    W_U = torch.randn(512, 3000, generator=generator).to(dtype)
    normed = torch.randn(rows, 512, generator=generator)
    exact = normed.double() @ W_U.double()
    size = normed.double().norm(dim=-1)[:, None] * W_U.double().norm(dim=0)
    readout = Readout(lambda x: x, W_U.T.contiguous().T.to(device), None)
    found = readout.logits(normed.to(device)).cpu().double()
    assert float(((found - exact).abs() / size).max()) < FLOAT32
    part = readout.logits(normed.to(device), slice(1000, 1100)).cpu().double()
    assert float(((part - exact[:, 1000:1100]).abs() / size[:, 1000:1100]).max()) < FLOAT32


def test_rounded_products_are_refused(llama: Case, device: str, rounded: None) -> None:
    if device == "mps":
        pytest.skip("torch rounds no float32 products there")
    if device == "cpu":
        pytest.skip("a CPU keeps float32 at this setting")
    with pytest.raises(ModelError, match="set_float32_matmul_precision"):
        load_model(llama.folder, device=device)
    with pytest.raises(ModelError, match="set_float32_matmul_precision"):
        load_quantized(llama.folder, 32, device=device)
