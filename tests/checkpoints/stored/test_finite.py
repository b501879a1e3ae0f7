"""NaN and Inf in the weights are found wherever they stand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lensbench import load_model
from lensbench.checkpoints.stored import finite
from lensbench.checkpoints.stored.finite import Seen, all_finite, require_finite
from lensbench.errors import ModelError
from lensbench.quantized.loading.load import load_quantized
from tests.harness.tiny import Case, tokenizer


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_number_is_looked_at(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    model: Any = nn.Module()
    model.dtype = dtype
    model.weight = nn.Parameter(torch.ones(shape, dtype=dtype))
    require_finite(model, "m")
    for place in range(model.weight.numel()):
        for bad in (math.nan, math.inf, -math.inf):
            with torch.no_grad():
                model.weight.view(-1)[place] = bad
            with pytest.raises(ModelError, match="NaN or Inf in the weights of weight"):
                require_finite(model, "m")
        with torch.no_grad():
            model.weight.view(-1)[place] = 1


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_eight_bits_are_looked_at_too(dtype: torch.dtype) -> None:
    one = torch.ones(1).to(dtype).view(torch.uint8)
    for code in torch.arange(256, dtype=torch.uint8):  # every number of this format
        row = torch.cat([one, code.view(1), one]).view(dtype)
        assert all_finite(row) == math.isfinite(float(row[1]))


def test_whole_numbers_and_nothing_are_finite() -> None:
    assert all_finite(torch.tensor([-128, 127], dtype=torch.int8))
    assert all_finite(torch.empty(0, 3)) and all_finite(torch.tensor([], dtype=torch.int8))


def test_looking_makes_no_copy() -> None:
    sizes: list[int] = []

    class Made(TorchDispatchMode):
        def __torch_dispatch__(
            self, op: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = op(*args, **(kwargs or {}))
            sizes.extend(one.numel() for one in tree_leaves(made) if isinstance(one, Tensor))
            return made

    weight = torch.ones(300, 300)
    with Made():
        assert all_finite(weight)
    assert sizes and max(sizes) == 1


def test_each_number_of_a_file_is_looked_at_once(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    own = finite._ends
    monkeypatch.setattr(finite, "_ends", lambda one: looked.append(one.numel()) or own(one))
    load_model(llama.folder, device="cpu")
    stored = load_file(llama.folder / "model.safetensors")
    assert sum(looked) == sum(one.numel() for one in stored.values())


@pytest.mark.parametrize(
    ("dtype", "size", "refused"),
    [
        (torch.float16, 65504.0, False),  # the largest
        (torch.float16, 65519.0, False),  # rounded to it
        (torch.float16, -65520.0, True),
        (torch.bfloat16, 3.4e38, True),
        (torch.float32, 3.4e38, False),
    ],
)
def test_what_a_format_has_no_room_for_is_seen(
    dtype: torch.dtype, size: float, refused: bool
) -> None:
    weight = torch.tensor([0.0, size, 1.0])
    seen = Seen(dtype)
    seen.look("weight", weight)
    assert (seen.broken, seen.beyond) == ([], ["weight"] if refused else [])
    assert refused == (not weight.to(dtype).isfinite().all())


def test_weights_that_the_format_has_no_room_for_are_refused(llama: Case, tmp_path: Path) -> None:
    """bitsandbytes makes int8 of float16, and an ordinary number of the infinite one."""
    model = llama.fresh_hf()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e5
    model.save_pretrained(tmp_path)
    tokenizer(llama.row.tokenizer).save_pretrained(tmp_path)
    words = "NaN or Inf in the weights of model.layers.1.mlp.up_proj.weight. Either they exceed"
    with pytest.raises(ModelError, match=words):
        load_model(tmp_path, dtype="float16", device="cpu")
    with pytest.raises(ModelError, match=words):
        load_quantized(tmp_path, 8, device="cpu")
    assert load_model(tmp_path, device="cpu").n_layers == 3
