"""What must be alike wherever jobs are done: the program, its packages, the processor's kind."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from lensbench.checkout import code_hash
from lensbench.errors import ModelError
from lensbench.records.manifest import versions
from lensbench.version import __version__


@cache
def kind() -> dict[str, str]:
    """Of this process. Numbers of two kinds differ: in their last digits, or altogether."""
    import torch

    code = code_hash(Path(__file__).resolve().parents[1])
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    own = {"lensbench": f"{__version__} (code {code[:12]})", "processor": processor}
    return own | versions(quantized=True)


def require_alike(where: str, there: Mapping[str, str]) -> None:
    """Raise ModelError, with every difference, for a worker of another kind than this process."""
    here = kind()
    lines = [
        f"  - {key}: {there.get(key, 'none')} there, {here.get(key, 'none')} here"
        for key in sorted({*here, *there})
        if there.get(key) != here.get(key)
    ]
    if lines:
        raise ModelError(
            f"The worker on {where} is another program than this one:\n"
            + "\n".join(lines)
            + "\nNumbers of the two would be mixed. Install the same versions on every machine."
        )
