"""`python -m tests.benchmarks.plan`: the table of `make bench-plan`.

What `lensbench run` said that each record of an analysis takes, beside what it took: each run is a
process of its own, and both columns are from the manifest that it left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from lensbench.files import write_text
from lensbench.json_text import read_json
from tests.benchmarks.table import Out, at_least, made_by, markdown_table

_HEADER = ("record", "", "tokens", "TFLOP", "disk, MB", "memory, GB", "time, s")


def bench(
    models: Annotated[tuple[str, ...], Parameter("--model")] = ("smollm2-135m", "gemma3-270m"),
    limit: Annotated[int, at_least(1, "Base prompts, with the rows that go with each.")] = 16,
    heatmaps: Annotated[int, at_least(0, "Base prompts that are read everywhere.")] = 2,
    threads: Annotated[int, at_least(1, "To a sum: on a crowded machine several wait.")] = 1,
    out: Out = Path("reports/bench"),
) -> None:
    """Planned against real: lenses final, next and raw over the shipped facts."""
    rows = []
    for model in models:
        with TemporaryDirectory() as folder:
            rows += _rows(_manifest(model, limit, heatmaps, threads, Path(folder)))
    text = [
        "# Planned against real",
        "",
        f"The shipped facts ({limit} base prompts, {heatmaps} of them at every position) through "
        "the lenses final, next and raw. `planned` is what `lensbench run` said before it loaded "
        "the model, `took` what its record says afterwards; the time begins with the model's hash "
        f"and ends with the tables. Threads: {threads}.",
        "",
        *markdown_table(_HEADER, rows),
        "",
        made_by("bench-plan"),
    ]
    write_text(out / "plan.md", "\n".join(text) + "\n")


def _manifest(model: str, limit: int, heatmaps: int, threads: int, folder: Path) -> dict[str, Any]:
    """Of the record that a run of its own made."""
    said = {"models": [model], "limit": limit, "heatmap_prompts": heatmaps}
    said["lenses"] = ["final", "next", "raw"]
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    write_text(folder / "analysis.toml", "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "lensbench.cli", "run", str(folder)]
    command += ["--out", str(folder / "out"), "--threads", str(threads)]
    subprocess.run(command, check=True)
    (path,) = (folder / "out").glob("*/manifest.json")
    return dict(read_json(path))


def _rows(manifest: dict[str, Any]) -> list[list[str]]:
    planned, took = manifest["planned"], manifest["took"]
    least, most = (end / 1e6 for end in planned["disk_bytes"])
    low, high = planned["wall_s"]
    name, flops = manifest["model"]["name"], f"{planned['flops'] / 1e12:.2f}"
    memory = f"{planned['memory_bytes'] / 1e9:.2f}"
    disk, held = f"{took['disk_bytes'] / 1e6:.2f}", f"{took['memory_bytes'] / 1e9:.2f}"
    return [
        [
            name,
            "planned",
            f"{planned['n_tokens']:,}",
            flops,
            f"{least:.2f} to {most:.2f}",
            memory,
            f"{low:.0f} to {high:.0f}",
        ],
        [name, "took", f"{took['n_tokens']:,}", "", disk, held, f"{took['wall_s']:.0f}"],
    ]


if __name__ == "__main__":
    cyclopts.run(bench)
