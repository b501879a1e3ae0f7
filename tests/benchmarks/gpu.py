"""`python -m tests.benchmarks.gpu`: the table of `make bench-gpu`.

The lens at the size of Llama-3-8B, beside plain Hugging Face and TransformerLens, on one device:
time, share of the device's own limits, memory, and how far the numbers are from exact products.
Weights are random, made on the device: nothing is downloaded.
"""

from __future__ import annotations

import datetime
import gc
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
from cyclopts import Parameter
from rich.console import Console

from lensbench.checkpoints.devices import pick_device
from lensbench.files import write_text
from lensbench.records.manifest import machine, versions
from tests.benchmarks import gpu_jobs as jobs
from tests.benchmarks.peers import SEVERAL, STACK, Job, layer_by_layer, readings, stacked, tool
from tests.benchmarks.table import Device, Out, Rounds, device_name, markdown_table

_console = Console(stderr=True)
PRODUCTS: dict[str, dict[str, Any]] = {
    "lensbench": {},
    "lensbench, --products bfloat16": {"products": "bfloat16"},
}
EVERYWHERE, LAST = "everywhere", "last"


@dataclass(frozen=True)
class Limits:
    """What the device does at best, measured here."""

    copy_bytes_per_s: float
    own_flops_per_s: float  # products in the model's format
    float32_flops_per_s: float


@dataclass(frozen=True)
class Row:
    """A job: of which table, its rounds, and what else it took."""

    table: str
    name: str
    seconds: list[float]
    flops: float
    floor_s: float  # that many operations, each at its own format's rate, or those bytes
    bytes: float
    peak_bytes: int | None
    waits: int | None


def bench(
    device: Device = None,
    small: Annotated[bool, Parameter(help="A toy model: proves the bench, says nothing.")] = False,
    rounds: Rounds = 5,
    out: Out = Path("reports/bench"),
) -> None:
    """Time, limits and memory of the lens at Llama-3-8B's size, on one device."""
    where, of = pick_device(device), jobs.size(small)
    _console.print(f"measuring the limits of {where}", markup=False)
    limits = Limits(
        jobs.copy_bytes_per_s(where, small),
        jobs.flops_per_s(where, of.dtype, small),
        jobs.flops_per_s(where, torch.float32, small),
    )
    rows = _plain(of, where, limits, rounds)
    _free(where)
    bridged, off, profile = _bridged(of, where, limits, rounds)
    write_text(out / "gpu-profile.txt", profile + "\n")
    found = {
        "device": device_name(where),
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions("lens"),
        "dtype": str(of.dtype).removeprefix("torch."),
        "float32_products": torch.get_float32_matmul_precision(),
        "tokens": {EVERYWHERE: of.n_tokens, LAST: of.prompt_tokens},
        "prompts": {EVERYWHERE: 1, LAST: of.n_prompts},
        "limits": asdict(limits),
        "rows": [asdict(row) for row in (*rows, *bridged)],
        "entropy_off_bits": off,
    }
    write_text(out / "gpu.json", json.dumps(found, indent=1) + "\n")
    text = markdown(found)
    write_text(out / "gpu.md", text)
    Console().print(text, markup=False, highlight=False)


def _free(where: str) -> None:
    gc.collect()
    if where.startswith("cuda"):
        torch.cuda.empty_cache()


def _plain(of: jobs.Size, where: str, limits: Limits, rounds: int) -> list[Row]:
    """What is done with a model that TransformerLens has not touched."""
    _console.print("drawing the weights", markup=False)
    hf = jobs.drawn(of, where)
    one = jobs.ids_of(of, where, 1, of.n_tokens)
    many = jobs.ids_of(of, where, of.n_prompts, of.prompt_tokens)
    own = str(of.dtype).removeprefix("torch.")
    measured = _measuring(of, where, limits, rounds)
    rows = [measured(EVERYWHERE, "forward pass", jobs.forward(hf, one), heads=of.n_tokens)]
    if of.dtype != torch.float32:
        job = jobs.floor(hf, one, of.dtype)
        rows.append(measured(EVERYWHERE, f"forward + bare head products, {own}", job))
    return [
        *rows,
        measured(
            EVERYWHERE,
            "forward + bare head products, float32",
            jobs.floor(hf, one, torch.float32),
            exact=True,
        ),
        measured(EVERYWHERE, "Hugging Face, layer by layer", layer_by_layer(hf, one)),
        measured(LAST, "Hugging Face, batched", jobs.last_positions(hf, many)),
    ]


def _bridged(
    of: jobs.Size, where: str, limits: Limits, rounds: int
) -> tuple[list[Row], dict[str, dict[str, float]], str]:
    """What is done through TransformerLens; how far lensbench's numbers are from exact ones; and
    where its time goes."""
    _console.print("wrapping another one for TransformerLens", markup=False)
    model = jobs.wrapped(of, where)
    one = jobs.ids_of(of, where, 1, of.n_tokens)
    many = jobs.ids_of(of, where, of.n_prompts, of.prompt_tokens)
    measured = _measuring(of, where, limits, rounds)
    rows = [
        measured(
            EVERYWHERE,
            "forward pass through TransformerLens",
            jobs.bridged_forward(model, one),
            heads=of.n_tokens,
        ),
        measured(EVERYWHERE, STACK, stacked(model, one)),
        measured(EVERYWHERE, "TransformerLens tools.analysis.logit_lens", tool(model, one)),
    ]
    off = {}
    for name, how in PRODUCTS.items():
        exact = not how
        final = ("final",)
        for table, ids, at in ((EVERYWHERE, one, "all"), (LAST, many, "last")):
            job = readings(model, ids, final, at, **how)
            rows.append(measured(table, name, job, exact=exact))
        job = readings(model, one, SEVERAL, **how)
        rows.append(measured(EVERYWHERE, f"{name}, three lenses", job, exact=exact, lenses=3))
        off[name] = jobs.off_bits(model, one, **how)
    profiles = [
        f"{name}\n{jobs.profile(readings(model, one, ('final',), **how), where)}"
        for name, how in PRODUCTS.items()
    ]
    return rows, off, "\n\n".join(profiles)


def _measuring(of: jobs.Size, where: str, limits: Limits, rounds: int) -> Callable[..., Row]:
    """Measures a job and counts the least that it has to do.

    Operations: two a parameter and token of the blocks, two a parameter of the head and row that
    it reads. Bytes: each weight once.
    """
    n_layers = of.config.num_hidden_layers

    def measured(
        table: str,
        name: str,
        job: Job,
        *,
        exact: bool = False,
        heads: int | None = None,
        lenses: int = 1,
    ) -> Row:
        _console.print(f"{table}: {name}", markup=False)
        everywhere = table == EVERYWHERE
        tokens = of.n_tokens if everywhere else of.n_prompts * of.prompt_tokens
        read = tokens if everywhere else of.n_prompts
        rows = (n_layers * lenses + 1) * read if heads is None else heads
        body, head = 2.0 * of.n_blocks * tokens, 2.0 * of.n_head * rows
        weights = float((of.n_blocks + of.n_head) * of.dtype.itemsize)
        rate = limits.float32_flops_per_s if exact else limits.own_flops_per_s
        floor_s = max(
            body / limits.own_flops_per_s + head / rate, weights / limits.copy_bytes_per_s
        )
        times = jobs.seconds(job, where, rounds)
        peak, waits = jobs.peak_bytes(job, where), jobs.n_waits(job, where)
        return Row(table, name, times, body + head, floor_s, weights, peak, waits)

    return measured


# The table.


def markdown(found: Mapping[str, Any]) -> str:
    """The page of what was measured."""
    limits, host = found["limits"], found["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    parts = [
        "# The lens on a GPU",
        "",
        f"Llama-3-8B's shape with random weights in {found['dtype']}, made on the device "
        f"({found['device']}). Medians of rounds (least to most), the device's work and the copy "
        "of the numbers to the host included. lensbench computes all its default statistics behind "
        "the gate, by float32 products; the others entropy, KL and top 5 (the TransformerLens "
        "tool: entropy and top 5), by products in the model's format.",
        "",
        f"Limits measured here: {limits['copy_bytes_per_s'] / 1e12:.2f} TB/s (a large copy, bytes "
        f"read and written), {limits['own_flops_per_s'] / 1e12:.0f} TFLOP/s in {found['dtype']}, "
        f"{limits['float32_flops_per_s'] / 1e12:.0f} TFLOP/s in float32 (large products; float32 "
        f"products are float32, setting `{found['float32_products']}`).",
        "",
    ]
    titles = {
        EVERYWHERE: f"One prompt of {found['tokens'][EVERYWHERE]} tokens, every layer and position",
        LAST: f"{found['prompts'][LAST]} prompts of {found['tokens'][LAST]} tokens, every layer at "
        "the last position",
    }
    for table, title in titles.items():
        rows = [_cells(row, found) for row in found["rows"] if row["table"] == table]
        parts += [f"## {title}", "", *markdown_table(_HEADER, rows), ""]
    return "\n".join([*parts, *_numbers(found), *_foot(host, packages, found)])


_HEADER = (
    "what",
    "ms a prompt",
    "share of the limit",
    "TFLOP/s",
    "TB/s",
    "memory beyond weights, MiB",
    "waits a batch",
)


def _cells(row: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    n = found["prompts"][row["table"]]
    ms = [1e3 * each / n for each in row["seconds"]]
    median = statistics.median(row["seconds"])
    peak, waits = row["peak_bytes"], row["waits"]
    return [
        row["name"],
        f"{statistics.median(ms):.3g} ({min(ms):.3g} to {max(ms):.3g})",
        f"{row['floor_s'] / median:.0%}",
        f"{row['flops'] / median / 1e12:.3g}",
        f"{row['bytes'] / median / 1e12:.2g}",
        "n/a" if peak is None else f"{peak / 2**20:,.0f}",
        "n/a" if waits is None else str(waits),
    ]


def _numbers(found: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            name,
            *(f"{off[key]:.2g}" for key in ("lensbench", "own_format")),
            f"{off['read_again']:.1%}",
        ]
        for name, off in found["entropy_off_bits"].items()
    ]
    header = ("what", "its entropies", f"those by {found['dtype']} products", "readings made again")
    return [
        "## How far from exact",
        "",
        "The worst entropy at the last position over all layers, in bits from products and sums in "
        "float64 of the same states; and the share of readings that products may have left outside "
        "the stated bound, which were made again in float64. Random weights have flat "
        "distributions, in which all tokens' errors count.",
        "",
        *markdown_table(header, rows),
        "",
    ]


def _foot(host: Mapping[str, Any], packages: str, found: Mapping[str, Any]) -> list[str]:
    return [
        "The limit is the time that the least work takes at the rates above: two operations a "
        "parameter and token of the blocks, two a parameter of the head and row that is read, each "
        "at the rate of the format it is done in; or every weight read once, where that is longer. "
        "Bytes are those of the weights, once. Waits: how often the host stood still until the "
        "device was done.",
        "",
        f"Made by `make bench-gpu` on {found['made']}: {found['device']}, {host['cpu']}, "
        f"{host['cores']} cores, {host['memory_bytes'] / 2**30:.0f} GiB; {packages}.",
        "",
    ]


if __name__ == "__main__":
    cyclopts.run(bench)
