"""Every verb that runs a model, on an accelerator: plain transformers on the CPU says the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.harness.sweep import VERBS, Plain
from tests.harness.tiny import Case

pytestmark = pytest.mark.gpu
# TF32 would be off by more: its products have 11 bits where float32's have 24.
BITS = 2e-4
FAMILIES = ("llama", "gemma2", "gpt2")
# GPT-2 trains with dropout, so that its first loss is not the model's.
DONE = [(verb, name) for verb in VERBS for name in FAMILIES if (verb, name) != ("train", "gpt2")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("verb", "family"), DONE)
def test_a_verb_says_what_plain_transformers_says_on_the_cpu(
    tiny_case: Callable[[str], Case],
    tmp_path: Path,
    device: str,
    verb: str,
    family: str,
    dtype: torch.dtype,
) -> None:
    plain = Plain(tiny_case(family).folder, device=device, dtype=dtype)
    assert VERBS[verb](plain, tmp_path) <= BITS
