"""Products of bfloat16 parts on a GPU's matrix units: float32 sums, and float64's decisions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lensbench import Prompt, load_model, logit_lens
from lensbench.lens.vocabulary.stream import Vectors
from lensbench.models.readout import Readout
from tests.harness.tiny import PROMPTS, TINY, Case
from tests.harness.vocabulary import exact_logits, stream_of

pytestmark = pytest.mark.gpu


@pytest.fixture
def device(device: str) -> str:
    """A device that has float64."""
    if device == "mps":
        pytest.skip("no float64 there, and so no products of parts")
    return device


def head(
    d_model: int, d_vocab: int, dtype: torch.dtype, device: str
) -> tuple[Readout, torch.Tensor]:
    """A random head and states, with logits of standard deviation 3."""
    generator = torch.Generator().manual_seed(d_model)
    weights = torch.randn(d_vocab, d_model, generator=generator).mul_(3 / d_model**0.5).to(dtype)
    normed = torch.randn(64, d_model, generator=generator)
    return Readout(lambda x: x, weights.to(device).T, None), normed.to(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("d_model", [64, 576, 4096])
def test_products_are_within_their_bound(device: str, d_model: int, dtype: torch.dtype) -> None:
    readout, normed = head(d_model, 4000, dtype, device)
    parts, exact = readout.in_parts(), exact_logits(readout, normed)
    off = (parts.logits(normed).double() - exact).abs().amax(-1)
    plain = (readout.logits(normed).double() - exact).abs().amax(-1)
    rounding = parts.rounding(normed)
    print(
        f"{dtype} {d_model}: parts {float((off / rounding).max()):.3g}, "
        f"float32 {float((plain / rounding).max()):.3g}, of {parts.n_roundings} roundings"
    )
    assert (off <= rounding * parts.n_roundings).all()
    assert (off <= 16 * rounding).all()  # half of what decisions far from the top allow for


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_decisions_are_float64s(device: str, dtype: torch.dtype) -> None:
    readout, normed = head(576, 50_000, dtype, device)
    truth = exact_logits(readout, normed)
    order = truth.argsort(descending=True)
    for rank in (1, 2, 7, 100, 2000, 30_000):
        tokens = order[:, rank - 1]
        stream = stream_of(readout.in_parts(), readout.logits(normed), {"answer": tokens})
        q = stream.read(Vectors(normed[:, None], slice(0, len(normed))))
        assert torch.equal(q.top_ids, order[:, :5])
        assert (q.seen["answer"].n_better == rank - 1).all()
        assert (q.seen["answer"].n_equal == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TINY)
def test_families_read_as_with_float32(
    name: str, dtype: str, tiny_case: Callable[[str], Case], device: str
) -> None:
    model = load_model(tiny_case(name).folder, dtype=dtype, device=device)
    prompts = [Prompt(f"p{i}", text, answer="Berlin") for i, text in enumerate(PROMPTS)]
    plain = logit_lens(model, prompts).to_pandas()
    parts = logit_lens(model, prompts, products="bfloat16").to_pandas()
    whole = ["prompt_id", "position", "layer", "site", "answer_rank", "answer_ties"]
    assert parts[whole].equals(plain[whole])
    assert [list(ids) for ids in parts.top_ids] == [list(ids) for ids in plain.top_ids]
    for column in ("entropy_bits", "kl_bits", "answer_prob"):
        np.testing.assert_allclose(
            parts[column].astype(float), plain[column].astype(float), atol=2e-5, rtol=2e-5
        )
