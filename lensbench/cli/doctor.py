"""`lensbench doctor`: what is installed, what the machine has, and what is missing."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

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
_EXTRAS = ("quant", "rag", "bench", "dev")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show versions, devices with their memory, the cache folder and missing optional parts.

    Examples:

        lensbench doctor

        lensbench doctor --json > doctor.json
    """
    facts = report()
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    _show(facts, Console(soft_wrap=True))


def report() -> dict[str, Any]:
    """Everything `doctor` says, as plain data."""
    from lensbench.checkpoints.source import cache_dir

    cache = cache_dir()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _CORE},
        "cores": _cores(),
        "devices": _devices(),
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
        }
        for name in [*names, "cpu"]
    ]


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


def _show(facts: dict[str, Any], console: Console) -> None:
    console.print(f"Python {facts['python']} on {facts['platform']}, {facts['cores']} cores")
    packages = Table(header_style="bold", box=None, pad_edge=False)
    packages.add_column("package")
    packages.add_column("version")
    for name, found in facts["packages"].items():
        packages.add_row(name, found or "[red]missing[/red]")
    console.print(packages)
    for device in facts["devices"]:
        memory = f"{device['available_bytes'] / 1e9:.1f} GB available"
        chosen = ", used by default" if device["default"] else ""
        console.print(f"device {device['device']} ({device['name']}): {memory}{chosen}")
    cache = facts["cache"]
    console.print(f"cache  {cache['folder']}: {cache['free_bytes'] / 1e9:.1f} GB free on its disk")
    for extra, state in facts["extras"].items():
        _show_extra(extra, state, console)


def _show_extra(extra: str, state: dict[str, Any], console: Console) -> None:
    if not state["missing"]:
        console.print(f"extra  {extra}: installed")
        return
    command = str(state["install"]).replace("[", r"\[")
    missing = ", ".join(state["missing"])
    console.print(f"extra  {extra}: missing {missing}; add with: {command}")
