"""What is installed, what the machine has, and the memory that a model needs on it."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import MissingExtraError, ModelError

_CORE = (
    "lensbench",
    "torch",
    "transformers",
    "transformer-lens",
    "huggingface-hub",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "plotly",
    "matplotlib",
)
_ROWS, _NEW_TOKENS = 10, 200  # a batch of answers, for the size of the cache
_EXTRAS = ("quant", "rag", "embed", "classify", "ray", "bench", "dev")


def report(model: str = "tinyllama") -> dict[str, Any]:
    """Everything that `lensbench doctor` says, as plain data.

    Raises ModelError for a model of which neither the config is here nor a row in the table.
    """
    from lensbench.checkpoints.source import cache_dir

    ref = ModelRef.of(model)
    _ = ref.located  # a name that leads nowhere is said before devices are tried, for seconds
    cache, devices = cache_dir(), _devices()
    return {
        "python": platform.python_version(),
        # Not platform.platform(), which runs uname to learn what it then leaves out.
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: _version(name) for name in _CORE},
        "cores": _cores(),
        "devices": devices,
        "memory": _memory(ref, [str(device["device"]) for device in devices]),
        "cache": {"folder": str(cache), "free_bytes": _free(cache)},
        "extras": {extra: _extra(extra) for extra in _EXTRAS},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _devices() -> list[dict[str, Any]]:
    """Every device a model can run on; the first one is what is used when none is named."""
    import torch

    from lensbench.checkpoints.devices import memory_available, pick_device

    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    chosen = pick_device()
    return [
        {
            "device": name,
            "name": torch.cuda.get_device_name(name) if name.startswith("cuda") else name,
            "available_bytes": memory_available(name),
            "default": name == chosen or (chosen, name) == ("cuda", "cuda:0"),
            "precisions": _precisions(name),
        }
        for name in [*names, "cpu"]
    ]


def _precisions(device: str) -> dict[str, dict[str, Any]]:
    """Which precisions of the second path run on a device; if not, why, and what does."""
    from lensbench.quantized.precision import ALTERNATIVE, PRECISIONS, half_precision, obstacle

    found: dict[str, dict[str, Any]] = {}
    for bits, name in PRECISIONS.items():
        try:
            reason = obstacle(bits, device)
            alternative = ALTERNATIVE if reason else None
        except MissingExtraError as error:
            reason, _, alternative = str(error).partition(". ")
        if bits == 16 and "bfloat16" not in str(half_precision(device)):
            reason, alternative = f"{device} has no bfloat16", "--bits 16 takes float16 there"
        found[name] = {"works": reason is None, "reason": reason, "alternative": alternative}
    return found


def _memory(ref: ModelRef, devices: Sequence[str]) -> dict[str, Any]:
    """Bytes that a model needs in each precision, from its config or its row of the table.

    `needed_bytes` on each device, as refusals for want of memory count; `peak_bytes` of a process
    by its verb, on a CPU.
    """
    from lensbench.checkpoints.open import open_config
    from lensbench.quantized.peaks import VERBS, peak_bytes
    from lensbench.quantized.precision import PRECISIONS, sizes_of, sizes_of_family

    located = ref.located
    if located.folder is None and located.family is not None:
        sizes = sizes_of_family(located.family)
    elif located.folder is None and located.hub_name is not None:
        raise ModelError(
            f"{located.name} is not on this machine yet. Here its config is enough, a few kB: "
            f"hf download {located.hub_name} config.json; lensbench pull {located.name} fetches "
            "all of it."
        )
    else:
        sizes = sizes_of(open_config(located.require_config()))
    needs = {
        name: {
            "weight_bytes": sizes.weight_bytes(bits),
            "loading_bytes": sizes.loading_bytes(bits),
            "cache_bytes": sizes.cache_bytes(bits, _ROWS * _NEW_TOKENS),
            "needed_bytes": {device: sizes.needed(bits, device) for device in devices},
            "peak_bytes": {verb: peak_bytes(verb, sizes, bits) for verb in VERBS},
        }
        for bits, name in PRECISIONS.items()
    }
    return {"model": located.name, "rows": _ROWS, "new_tokens": _NEW_TOKENS, "needs": needs}


def _extra(extra: str) -> dict[str, Any]:
    packages = {name: _version(name) for name in _packages_of(extra)}
    missing = [name for name, found in packages.items() if found is None]
    command = f'pip install "lensbench[{extra}]"' if missing else None
    return {"packages": packages, "missing": missing, "install": command}


def _packages_of(extra: str) -> list[str]:
    """The packages that an extra asks for, as the installed lensbench itself declares them."""
    declared = requires("lensbench") if _version("lensbench") else None
    wanted = [line for line in declared or [] if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    return [re.split(r"[\s<>=!~;\[(]", line, maxsplit=1)[0] for line in wanted]
