"""Tensors are mapped; what is converted leaves memory with the last use of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lensbench.checkpoints.stored.finite import Seen
from lensbench.checkpoints.stored.tensors import SINGLE, stored_tensors

_FORMATS = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("as_stored", [None, *_FORMATS])
def test_tensors_are_mapped_whatever_they_become(
    tmp_path: Path, as_stored: torch.dtype | None
) -> None:
    numbers = {str(dtype): torch.linspace(-2, 2, 1 << 20).to(dtype) for dtype in _FORMATS}
    save_file(numbers, tmp_path / SINGLE)
    tensors = stored_tensors(tmp_path, Seen(torch.float32), as_stored)
    found = {name: tensor[...] for name, tensor in tensors.items()}
    for name, tensor in found.items():
        assert torch.equal(tensor, numbers[name])
        assert _is_mapped(tensor, tmp_path / SINGLE)


def test_numbers_shapes_and_formats_are_those_of_safetensors(tmp_path: Path) -> None:
    """Odd sizes, so that tensors share pages; an empty one; formats that are read, not mapped."""
    stored = {
        "odd": torch.arange(5 * 1021, dtype=torch.float32).view(5, 1021),
        "half": torch.linspace(-1, 1, 4099).half(),
        "none": torch.empty(0, 3),
        "one": torch.tensor(3.5),
        "whole": torch.arange(7),
        "double": torch.linspace(0, 1, 11, dtype=torch.float64),
    }
    save_file(stored, tmp_path / SINGLE)
    for _ in range(2):  # let go of, and read again
        for name, tensor in stored_tensors(tmp_path, Seen(torch.bfloat16)).items():
            assert tensor.shape == stored[name].shape
            assert tensor[...].dtype == stored[name].dtype
            assert torch.equal(tensor[...], stored[name])
            if stored[name].numel() > 5000:
                assert torch.equal(tensor[1:3], stored[name][1:3])


def test_what_was_converted_leaves_memory_and_what_is_used_stays(tmp_path: Path) -> None:
    path, numbers = tmp_path / SINGLE, torch.linspace(-2, 2, 8 << 20)
    save_file({"weight": numbers}, path)
    tensors = stored_tensors(tmp_path, Seen(torch.bfloat16))
    tensor = tensors["weight"][...]
    part = tensor[1:]
    del tensor
    assert _resident(path) > 0.9 * numbers.nbytes
    converted = part.bfloat16()
    del part
    assert _resident(path) < 0.1 * numbers.nbytes
    assert torch.equal(converted, numbers[1:].bfloat16())
    assert torch.equal(tensors["weight"][...], numbers)


def test_what_is_done_to_a_mapped_tensor_stays_in_this_process(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1 << 20)}, tmp_path / SINGLE)
    before = (tmp_path / SINGLE).read_bytes()
    stored_tensors(tmp_path, Seen(torch.float32), torch.float32)["weight"][...].mul_(2)
    assert (tmp_path / SINGLE).read_bytes() == before


def _resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("the kernel does not say what is mapped")
    found, own = 0, False
    for line in maps.read_text().splitlines():
        if "-" in line.split()[0]:
            own = line.endswith(str(path))
        elif own and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


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
