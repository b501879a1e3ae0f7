"""Where a model runs and in which number format: stated rules, and the arithmetic shown."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from lensbench.device import ONE, is_spread
from lensbench.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SMALL_MODEL = 2e9  # parameters; below this, float32 fits on any accelerator in use today
_CGROUP = Path("/sys/fs/cgroup")
_WITHOUT_FLOAT64 = {"mps"}
_SHARE = 32  # of an accelerator's memory, what may be taken for a moment
_TOKENS, _MOST_TOKENS = 512, 2048  # of a forward pass
_TOKEN_BYTES = 256 << 10  # of the memory for a moment: a row of logits
_PROBE = 256  # rows and columns of a product that shows how products are made


def pick_device(device: str | None = None) -> str:
    """The device asked for, or the first there is of cuda, mps, cpu."""
    if device is not None:
        return existing(device)
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def existing(device: str) -> str:
    """A device by its name. Raises ModelError for one that is not there, and for a list."""
    if is_spread(device):
        raise ModelError(
            f"{device!r} spreads a model over devices. Here it runs on one, which also learns or "
            "is looked into: give cpu, cuda, cuda:1 or mps."
        )
    try:
        kind, index = torch.device(device).type, torch.device(device).index
    except RuntimeError as error:
        raise ModelError(f"{device!r} is no device. {ONE}") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(kind, False):
        raise ModelError(f"There is no {device} on this machine. Use --device {pick_device()}.")
    return device


def pick_dtype(dtype: str | None, device: str, n_params: int | None = None) -> torch.dtype:
    """The dtype asked for; else float32 on a CPU and for small models, half precision above 2e9.

    Half precision means bfloat16 where the device has it and float16 elsewhere. A CPU always gets
    float32: it is what the lens is exact in, and half precision saves a CPU no time.
    """
    if dtype is not None:
        if dtype not in DTYPES:
            raise ModelError(f"{dtype!r} is no dtype. Give one of {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    if device == "cpu" or n_params is None or n_params <= _SMALL_MODEL:
        return torch.float32
    return torch.bfloat16 if _has_bfloat16(device) else torch.float16


def _has_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return int((platform.mac_ver()[0] or "0").split(".")[0]) >= 14  # mps


def memory_available(device: str) -> int:
    """Bytes that can still be taken on `device`; on a CPU within the container's limit, if any."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    if device == "mps":
        in_use = torch.mps.driver_allocated_memory()
        return int(torch.mps.recommended_max_memory() - in_use)
    return min(int(psutil.virtual_memory().available), _container_memory(_CGROUP))


def has_float64(device: torch.device) -> bool:
    """Whether there are numbers of 53 bits: Apple's MPS has none."""
    return device.type not in _WITHOUT_FLOAT64


def wide(numbers: Tensor) -> Tensor:
    """In float64, where sums lose nothing; in float32 on a device that has none."""
    return numbers.double() if has_float64(numbers.device) else numbers.float()


def working_bytes(device: torch.device) -> int:
    """Of an accelerator's memory, what may be taken for a moment: a thirty-second of all of it.

    Not of what is free: how work is cut up decides last digits, and a run that goes on later must
    be cut up as before.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // _SHARE
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory()) // _SHARE
    return int(psutil.virtual_memory().total) // _SHARE


def tokens_at_once(device: torch.device, asked: int | None = None) -> int:
    """Tokens of a forward pass: as `asked`, else 512 on a CPU and up to 2,048 elsewhere.

    A GPU stands idle between calls that have little to do. (Short prompts through a model of the
    size of Llama-3-8B on an H200: 3.7 ms each by 512 tokens, 1.9 by 2,048, 1.7 by 8,192.)
    """
    if asked is not None:
        return asked
    if device.type == "cpu":
        return _TOKENS
    return min(max(working_bytes(device) // _TOKEN_BYTES, _TOKENS), _MOST_TOKENS)


def device_facts(device: torch.device, weights: Iterable[Tensor] = ()) -> dict[str, str]:
    """A device in a manifest: numbers of two kinds of GPU differ in their last digits.

    `weights` may lie on other GPUs, which are named too where they are of other kinds.
    """
    if device.type != "cuda":
        return {"device": device.type}
    own = {device, *(weight.device for weight in weights if weight.is_cuda)}
    names = sorted({torch.cuda.get_device_name(one) for one in own})
    return {"device": device.type, "device_name": " + ".join(names)}


def require_float32(device: torch.device) -> None:
    """Raise ModelError where products of float32 numbers are rounded to fewer bits on `device`.

    Other code of the process, or the environment, may have asked for TF32 (11 of 24 bits) or
    bfloat16 (8): every number would be off, by up to 1e-3, and nothing would show it. A product
    that is exact in float32, and in neither of them, tells.
    """
    value = 1 + 2**-12
    rows = torch.full((_PROBE, _PROBE), value, device=device)
    found = rows @ torch.eye(_PROBE, device=device)
    if not bool((found == value).all()):
        raise ModelError(
            f"Products of float32 numbers are rounded on {device} (TF32 or bfloat16), so that "
            "every number would be off, by up to 1e-3. Something in this process asked for that: "
            "call torch.set_float32_matmul_precision('highest') after it, and leave "
            "NVIDIA_TF32_OVERRIDE and TORCH_ALLOW_TF32_CUBLAS_OVERRIDE unset."
        )


def _container_memory(cgroup: Path) -> int:
    """What a container's limit still leaves, file cache counted as free; huge without a limit."""
    unlimited = 1 << 62
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        lines = (cgroup / "memory.stat").read_text().splitlines()
    except OSError:  # not Linux, or no limit set at this level
        return unlimited
    if limit == "max":
        return unlimited
    cache = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return max(0, int(limit) - used + cache)


def gb(count: int) -> str:
    """12.3 GB, and of less than .1 GB 12.3 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
