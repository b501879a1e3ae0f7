"""The residual cache beside the bare disk, and its lens beside the live one.

Every job is a ratio within one run, in turn with the job it is compared with.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
import torch
from cyclopts import Parameter
from rich.console import Console

from lensbench.files import write_bytes, write_text
from lensbench.lens.cached import cached_prompts, lens_from_cache
from lensbench.lens.result import read
from lensbench.lens.settings import LensSettings
from lensbench.models.load import load_model
from lensbench.records.residuals import shard, shard_name, tensor_name
from lensbench.residuals.store import ResidualCache, open_cache
from lensbench.studies.specs.cache import CacheSpec
from lensbench.studies.stages.cache import run_cache
from tests.benchmarks.measure import round_robin
from tests.benchmarks.table import Model, Out, Rounds, at_least, made_by, markdown_table, ratios

_LAYER = 1  # the one layer that is read for all prompts
_console = Console(stderr=True)

Seconds = dict[str, list[float]]


def measure_disk(cache: ResidualCache, rounds: int, folder: Path) -> Seconds:
    """Write the cache's shards and read them back, beside the same bytes as plain files.

    Reading comes from the page cache on both sides: what is compared is the work, not the drive.
    """
    shards = sorted((cache.folder / "residuals").iterdir())
    data = [path.read_bytes() for path in shards]
    tensors = [_tensors(cache, number) for number in range(len(shards))]

    def write_own() -> None:
        for number, batch in enumerate(tensors):
            for path, content in shard(number, batch, "bench").items():
                write_bytes(folder / "own" / path, content)

    def write_plain() -> None:
        for number, block in enumerate(data):
            write_bytes(folder / "plain" / str(number), block)

    def hash_bytes() -> None:
        for block in data:
            hashlib.sha256(block).digest()

    def read_all(again: bool) -> Callable[[], None]:
        kept = open_cache(cache.folder) if again else None

        def job() -> None:
            opened = kept or open_cache(cache.folder)
            for site in opened.sites:
                opened.layer(site)

        return job

    def read_mapped() -> None:
        for path in shards:
            np.array(np.memmap(path, mode="r"))

    def read_one() -> None:
        open_cache(cache.folder).layer(_LAYER)

    jobs = {
        "write": write_own,
        "write plain": write_plain,
        "sha256": hash_bytes,
        "read": read_all(again=False),
        "read again": read_all(again=True),
        "read plain": read_mapped,
        "read one layer": read_one,
    }
    return round_robin(jobs, rounds)


def _tensors(cache: ResidualCache, number: int) -> dict[str, torch.Tensor]:
    """One shard as it was before it was written."""
    from safetensors.torch import load_file

    return load_file(cache.folder / shard_name(number))


def measure_lens(cache: ResidualCache, rounds: int, device: str | None) -> Seconds:
    """The final lens of the cached prompts at the cached positions, from disk and live."""
    model = load_model(cache.record.name, device=device, dtype="float32")
    prompts = cached_prompts(cache, model)
    positions = "all" if cache.record.settings["positions"] == "all" else "last"
    settings = LensSettings(positions=positions)

    def from_cache() -> None:
        lens_from_cache(open_cache(cache.folder), model)

    def live() -> None:
        read(model, prompts, settings)

    return round_robin({"from cache": from_cache, "live": live}, rounds)


def bench(
    model: Model = "smollm2-135m",
    limit: Annotated[int, at_least(1, "Base prompts.")] = 16,
    rounds: Rounds = 3,
    device: Annotated[str | None, Parameter(help="cpu, cuda. Default: by rule.")] = None,
    out: Out = Path("reports/bench"),
) -> None:
    """Make a cache of the facts at all positions and at the last, then time it."""
    folder = Path(tempfile.mkdtemp(prefix="lensbench-bench-"))
    try:
        caches = [_made(model, limit, positions, device, folder) for positions in ("all", "last")]
        with _console.status("disk"):
            disk = measure_disk(caches[0], rounds, folder)
        with _console.status("lens"):
            lens = [measure_lens(cache, rounds, device) for cache in caches]
        text = _markdown(caches, disk, lens, rounds)
    finally:
        shutil.rmtree(folder)
    write_text(out / "cache.md", text)
    Console().print(text, markup=False, highlight=False)


def _made(
    model: str, limit: int, positions: str, device: str | None, folder: Path
) -> ResidualCache:
    spec = CacheSpec(model, limit=limit, positions=positions, dtype="float32", device=device)
    run_cache(spec, folder / positions)
    return open_cache(folder / positions)


def _markdown(
    caches: Sequence[ResidualCache], disk: Seconds, lens: Sequence[Seconds], rounds: int
) -> str:
    whole = caches[0]
    n_sites = len(whole.sites)
    plain = "the same bytes, mapped and copied"
    beside = [
        ("writing all shards", "the same bytes, written and synced", "write", "write plain"),
        ("reading every layer, checked", plain, "read", "read plain"),
        ("SHA-256 of the same bytes", plain, "sha256", "read plain"),
        ("reading every layer again", plain, "read again", "read plain"),
        (f"reading 1 of {n_sites} layers", "reading every layer", "read one layer", "read"),
    ]
    rows = [(what, other, ratios(disk[a], disk[b])) for what, other, a, b in beside]
    rows += [
        (
            f"the lens from the cache, {len(cache.cells):,} cells "
            f"(positions {cache.record.settings['positions']})",
            "the lens live",
            ratios(seconds["from cache"], seconds["live"]),
        )
        for cache, seconds in zip(caches, lens, strict=True)
    ]
    size = f"{whole.files.n_bytes / 1e6:,.0f} MB in {len(list(whole.files.verify()))} shards"
    model = whole.record.name
    return "\n".join(
        [
            "# The residual cache beside the bare disk",
            "",
            f"{model}, float32, {whole.cells.prompt_id.nunique():,} prompts of the facts; at all "
            f"positions {size}: {len(whole.cells):,} cells x {n_sites} sites, one of them "
            f"{tensor_name(whole.sites[_LAYER].name, _LAYER)}. Time as a multiple of the other "
            f"job's, paired within each of {rounds} rounds: median (least to most). Files are "
            "read from memory (the page cache), so the drive's own speed plays no part in reading.",
            "",
            *markdown_table(("what", "beside", "time, times the other's"), rows),
            "",
            made_by("bench-cache"),
            "",
        ]
    )


if __name__ == "__main__":
    cyclopts.run(bench)
