"""A tensor that is used as it is stored is mapped; every other one is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lensbench.checkpoints.stored.finite import Seen
from lensbench.checkpoints.stored.tensors import SINGLE, stored_tensors

_FORMATS = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("as_stored", [None, *_FORMATS])
def test_just_the_tensors_of_the_models_format_are_mapped(
    tmp_path: Path, as_stored: torch.dtype | None
) -> None:
    numbers = {str(dtype): torch.linspace(-2, 2, 1 << 20).to(dtype) for dtype in _FORMATS}
    save_file(numbers, tmp_path / SINGLE)
    tensors = stored_tensors(tmp_path, Seen(torch.float32), as_stored)
    found = {name: tensor[...] for name, tensor in tensors.items()}
    for name, tensor in found.items():
        assert torch.equal(tensor, numbers[name])
        assert _is_mapped(tensor, tmp_path / SINGLE) == (name == str(as_stored))


def test_what_is_done_to_a_mapped_tensor_stays_in_this_process(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1 << 20)}, tmp_path / SINGLE)
    before = (tmp_path / SINGLE).read_bytes()
    stored_tensors(tmp_path, Seen(torch.float32), torch.float32)["weight"][...].mul_(2)
    assert (tmp_path / SINGLE).read_bytes() == before


def _is_mapped(tensor: torch.Tensor, path: Path) -> bool:
    """Whether the kernel says that its numbers lie in this file."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the kernel does not say what is mapped")
    for line in maps.read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line.endswith(str(path))
    raise AssertionError("a tensor outside of every mapping")
