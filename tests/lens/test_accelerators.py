"""What the lens does otherwise on an accelerator, done on the CPU: the numbers are the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from lensbench.checkpoints import devices
from lensbench.checkpoints.devices import require_float32, wide, working_bytes
from lensbench.errors import ModelError
from lensbench.lens.result import logit_lens
from lensbench.lens.table import measured
from lensbench.lens.vocabulary.fetch import by_one_copy
from lensbench.models.load import load_model
from lensbench.models.readout import Readout
from lensbench.prompts.prompt import Prompt
from tests.harness.tiny import PROMPTS, Case

CPU = torch.device("cpu")


def read(case: Case, dtype: str = "float32") -> pd.DataFrame:
    model = load_model(case.folder, device="cpu", dtype=dtype)
    prompts = [Prompt(f"p{i}", text, answer="Berlin") for i, text in enumerate(PROMPTS)]
    return logit_lens(model, prompts, lens=("final", "next"), top_k=7).to_pandas()


def require_near(found: pd.DataFrame, wanted: pd.DataFrame, bits: float) -> None:
    assert found["top_ids"].map(tuple).equals(wanted["top_ids"].map(tuple))
    for name in measured():
        own, cpu = (frame[name].to_numpy(np.float64) for frame in (found, wanted))
        whole = name.endswith(("_rank", "_ties"))
        np.testing.assert_allclose(own, cpu, rtol=0 if whole else 1e-4, atol=0 if whole else bits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_logits_that_are_held_say_the_same(
    tiny_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch, family: str, dtype: str
) -> None:
    case = tiny_case(family)
    wanted = read(case, dtype)
    monkeypatch.setattr(Readout, "holds", True)
    monkeypatch.setattr(devices, "_SHARE", 1 << 26)  # a few rows of logits at once
    assert working_bytes(CPU) < 4 * 384 * len(wanted) / 2
    require_near(read(case, dtype), wanted, 2e-5)


def test_no_float64_is_needed(llama: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = read(llama)

    def refuse(tensor: torch.Tensor) -> torch.Tensor:
        raise TypeError("this device has no float64")

    monkeypatch.setattr(Readout, "holds", True)
    monkeypatch.setattr(devices, "_WITHOUT_FLOAT64", {"cpu"})
    monkeypatch.setattr(torch.Tensor, "double", refuse)
    assert wide(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32
    require_near(read(llama), wanted, 5e-5)


def test_tensors_of_all_widths_come_by_one_copy() -> None:
    given = {
        "flags": torch.tensor([True, False, True]),
        "numbers": torch.randn(5, 3).T,
        "nothing": torch.empty(0, 4),
        "ids": torch.arange(7),
        "half": torch.randn(3).bfloat16(),
        "one": torch.tensor(2.5),
        "alike": torch.tensor([1.5]).expand(9, -1),
    }
    found = by_one_copy(given)
    assert set(found) == set(given)
    for name, own in given.items():
        assert torch.equal(found[name], own)
        assert found[name].dtype == own.dtype
    assert len({own.untyped_storage().data_ptr() for own in found.values()}) == 1


def test_products_that_are_rounded_are_refused(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TF32 rounds them: to 11 of 24 bits. Only an accelerator does it by itself."""
    require_float32(CPU)
    product = torch.Tensor.__matmul__

    def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        bits = a.contiguous().view(torch.int32)
        return product((((bits + (1 << 12)) >> 13) << 13).view(torch.float32), b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    with pytest.raises(ModelError, match=r"rounded on cpu.*set_float32_matmul_precision"):
        load_model(llama.folder, device="cpu")
