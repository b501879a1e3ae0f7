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

from lensbench.cli.console import literal
from lensbench.errors import MissingExtraError

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
_EXTRAS = ("quant", "rag", "bench", "dev")


def doctor(
    model: Annotated[
        str, typer.Argument(help="The model whose memory is counted: alias, hub name or folder.")
    ] = "tinyllama",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show versions, devices, the precisions that run on each, and the memory a model needs.

    Also the cache folder and missing optional parts. Nothing is fetched.

    Examples:

        lensbench doctor

        lensbench doctor smollm2-135m

        lensbench doctor --json > doctor.json
    """
    facts = report(model)
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    _show(facts, Console(soft_wrap=True))


def report(model: str = "tinyllama") -> dict[str, Any]:
    """Everything `doctor` says, as plain data.

    Raises ModelError for a model that is neither here nor in the table.
    """
    from lensbench.checkpoints.source import cache_dir

    cache = cache_dir()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _CORE},
        "cores": _cores(),
        "devices": _devices(),
        "memory": _memory(model),
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


def _memory(model: str) -> dict[str, Any]:
    """Bytes that a model needs in each precision, from its config or its row of the table."""
    from lensbench.checkpoints.open import open_config
    from lensbench.checkpoints.ref import ModelRef
    from lensbench.quantized.precision import PRECISIONS, sizes_of, sizes_of_family

    located = ModelRef.of(model).located
    if located.folder is None and located.family is not None:
        sizes = sizes_of_family(located.family)
    else:
        sizes = sizes_of(open_config(located.require_folder()))
    needs = {
        name: {
            "weight_bytes": sizes.weight_bytes(bits),
            "cache_bytes": sizes.cache_bytes(bits, _ROWS * _NEW_TOKENS),
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
        _show_precisions(device["precisions"], console)
    _show_memory(facts["memory"], facts["devices"], console)
    cache = facts["cache"]
    console.print(f"cache  {cache['folder']}: {cache['free_bytes'] / 1e9:.1f} GB free on its disk")
    for extra, state in facts["extras"].items():
        _show_extra(extra, state, console)


def _show_precisions(precisions: dict[str, dict[str, Any]], console: Console) -> None:
    working = [name for name, state in precisions.items() if state["works"]]
    console.print(f"  runs {', '.join(working)}")
    for name, state in precisions.items():
        if not state["works"]:
            console.print(f"  {name}: no, {state['reason']}. {state['alternative']}", markup=False)


def _show_memory(memory: dict[str, Any], devices: list[dict[str, Any]], console: Console) -> None:
    """One row a precision, one column a device: does the model fit?"""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("precision", "weights", "cache", *(f"on {d['device']}" for d in devices)):
        table.add_column(column)
    for name, need in memory["needs"].items():
        total = need["weight_bytes"] + need["cache_bytes"]
        fits = ["fits" if total <= d["available_bytes"] else "[red]too large[/]" for d in devices]
        weights, cache = (f"{need[k] / 1e9:.2f} GB" for k in ("weight_bytes", "cache_bytes"))
        table.add_row(name, weights, cache, *fits)
    console.print(
        f"memory for {literal(memory['model'])}, cache for {memory['rows']} rows x "
        f"{memory['new_tokens']} new tokens (prompts and the program come on top)"
    )
    console.print(table)


def _show_extra(extra: str, state: dict[str, Any], console: Console) -> None:
    if not state["missing"]:
        console.print(f"extra  {extra}: installed")
        return
    command = str(state["install"]).replace("[", r"\[")
    missing = ", ".join(state["missing"])
    console.print(f"extra  {extra}: missing {missing}; add with: {command}")
