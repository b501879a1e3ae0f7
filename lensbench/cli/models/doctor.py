"""Show versions, devices, the precisions that run on each, and the memory a model needs.

Also the cache folder and missing optional parts. Nothing is fetched.

Examples:

    lensbench doctor

    lensbench doctor smollm2-135m

    lensbench doctor --json > doctor.json
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from lensbench.cli.console import literal, results, say_json
from lensbench.cli.options import Json


def doctor(
    model: Annotated[
        str, Parameter(help="The model whose memory is counted: alias, hub name or folder.")
    ] = "tinyllama",
    *,
    json: Json = False,
) -> None:
    from lensbench.quantized.machine import report

    facts = report(model)
    if json:
        say_json(facts)
    else:
        _show(facts)


_print = partial(results.print, soft_wrap=True)


def _show(facts: dict[str, Any]) -> None:
    _print(f"Python {facts['python']} on {facts['platform']}, {facts['cores']} cores")
    packages = Table(header_style="bold", box=None, pad_edge=False)
    packages.add_column("package")
    packages.add_column("version")
    for name, found in facts["packages"].items():
        packages.add_row(name, found or "[red]missing[/red]")
    _print(packages)
    for device in facts["devices"]:
        memory = f"{device['available_bytes'] / 1e9:.1f} GB available"
        chosen = ", used by default" if device["default"] else ""
        _print(f"device {device['device']} ({device['name']}): {memory}{chosen}")
        _show_precisions(device["precisions"])
    _show_memory(facts["memory"], facts["devices"])
    cache = facts["cache"]
    _print(f"cache  {cache['folder']}: {cache['free_bytes'] / 1e9:.1f} GB free on its disk")
    for extra, state in facts["extras"].items():
        _show_extra(extra, state)


def _show_precisions(precisions: dict[str, dict[str, Any]]) -> None:
    working = [name for name, state in precisions.items() if state["works"]]
    _print(f"  runs {', '.join(working)}")
    for name, state in precisions.items():
        if not state["works"]:
            _print(f"  {name}: no, {state['reason']}. {state['alternative']}", markup=False)


def _show_memory(memory: dict[str, Any], devices: list[dict[str, Any]]) -> None:
    """One row a precision, one column a device: does the model fit?"""
    table = Table(header_style="bold", box=None, pad_edge=False)
    places = (f"on {device['device']}" for device in devices)
    for column in ("precision", "weights", "loading", "cache", *places):
        table.add_column(column)
    for name, need in memory["needs"].items():
        fits = [_fits(need, device) for device in devices]
        kinds = ("weight_bytes", "loading_bytes", "cache_bytes")
        table.add_row(name, *(f"{need[kind] / 1e9:.2f} GB" for kind in kinds), *fits)
    _print(
        f"memory for {literal(memory['model'])}: weights, the peak of loading them, and the cache\n"
        f"for {memory['rows']} rows x {memory['new_tokens']} new tokens; prompts, and half a GB of "
        "the program, on top"
    )
    _print(table)
    _show_peaks(memory["needs"], devices[-1]["available_bytes"])


def _show_peaks(needs: dict[str, Any], free: int) -> None:
    """Of the processor, which is the last device; what is more than is free there is marked."""
    peaks = Table(header_style="bold", box=None, pad_edge=False)
    peaks.add_column("precision")
    for verb in next(iter(needs.values()))["peak_bytes"]:
        peaks.add_column(verb, justify="right")
    for name, need in needs.items():
        peaks.add_row(name, *(_peak(n_bytes, free) for n_bytes in need["peak_bytes"].values()))
    _print("GB at the peak of a whole process on the CPU, 512 tokens at once, by verb;")
    _print(f"!: more than the {free / 1e9:.1f} GB that are free here")
    _print(peaks)


def _peak(n_bytes: int, free: int) -> str:
    shown = f"{n_bytes / 1e9:.2f}"
    return f"[red]{shown} ![/]" if n_bytes > free else f"{shown}  "


def _fits(need: dict[str, Any], device: dict[str, Any]) -> str:
    """By the rule of refusals, and with the cache of the answers."""
    total = max(need["needed_bytes"][device["device"]], need["weight_bytes"] + need["cache_bytes"])
    return "fits" if total <= device["available_bytes"] else "[red]too large[/]"


def _show_extra(extra: str, state: dict[str, Any]) -> None:
    if not state["missing"]:
        _print(f"extra  {extra}: installed")
        return
    command = str(state["install"]).replace("[", r"\[")
    missing = ", ".join(state["missing"])
    _print(f"extra  {extra}: missing {missing}; add with: {command}")
