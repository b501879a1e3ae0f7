"""A model that is spread over devices gives the numbers of the same model on one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from lensbench.attention.result import read_heads
from lensbench.attention.settings import AttentionSettings
from lensbench.checkpoints.stored.offload import is_offloaded
from lensbench.lens.result import logit_lens
from lensbench.models.load import load_model
from lensbench.quantized.generation.generate import generate
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.load import load_quantized
from lensbench.residuals.capture import residual_stream
from tests.harness.spread import beside
from tests.harness.tiny import PROMPTS, Case

pytestmark = pytest.mark.gpu
SITES = ("embed", "resid_mid", "resid_post", "attn_out", "mlp_out", "head_out")


@pytest.fixture(params=["qwen3", "gpt2"])
def case(request: pytest.FixtureRequest, tiny_case: Callable[[str], Case]) -> Case:
    return tiny_case(request.param)


def require_equal(case: Case, one: str, several: str, dtype: str) -> None:
    """Bit for bit: the same tensors go through the same products of the same kind of device."""
    plain, spread = (load_model(case.folder, device=d, dtype=dtype) for d in (one, several))
    assert spread.device.type == plain.device.type
    assert sum(spread.facts()["blocks_on"].values()) == spread.n_layers
    for prompt in PROMPTS[:2]:
        here, there = (residual_stream(m, prompt, SITES) for m in (plain, spread))
        assert torch.equal(here.stream, there.stream)
        assert torch.equal(here.logits, there.logits)
    lenses = ["final", "next", "raw"]
    here, there = (logit_lens(m, [*PROMPTS], lens=lenses).to_pandas() for m in (plain, spread))
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    settings = AttentionSettings(n_repeated=2, repeat_tokens=5)
    here, there = (read_heads(m, [*PROMPTS], settings).to_pandas() for m in (plain, spread))
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    decoding, bits = Decoding(max_new_tokens=5), 32 if dtype == "float32" else 16
    models = (load_quantized(case.folder, bits, device=d) for d in (one, several))
    first, second = (generate(m, case.token_ids, decoding) for m in models)
    assert first == second


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_in_memory_or_on_disk_are_brought_to_the_device(
    case: Case, device: str, dtype: str, tmp_path: Path
) -> None:
    if device == "mps":
        pytest.skip("its memory is the processor's")
    other = "cpu" if device.startswith("cuda") else f"disk={tmp_path}"
    several = beside(case.folder, device, other, dtype)
    assert is_offloaded(load_model(case.folder, device=several, dtype=dtype).bridge)
    require_equal(case, device, several, dtype)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_on_a_second_gpu_are_computed_there(case: Case, dtype: str) -> None:
    several = beside(case.folder, "cuda:0", "cuda:1", dtype)
    spread = load_model(case.folder, device=several, dtype=dtype)
    assert {weight.device.index for weight in spread.bridge.parameters()} == {0, 1}
    assert spread.readout.W_U.device.index == 0
    require_equal(case, "cuda:0", several, dtype)
