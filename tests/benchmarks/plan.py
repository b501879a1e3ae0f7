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

_HEADER = ("analysis", "record", "", "tokens", "TFLOP", "disk, MB", "memory, GB", "time, s")
_LENS = {"lenses": ["final", "next", "raw"]}
_SMALL: dict[str, dict[str, Any]] = {
    "traces": {
        "kind": "correlation",
        "models": ["smollm2-135m@32"],
        "limit": 10,
        "max_new_tokens": 4,
        "batch_size": 5,
        "style": "alpaca",
        "suggest_blocks": 6,
        "resamples": 100,
    },
    "adapter": {
        "kind": "adapter",
        "model": "smollm2-135m@32",
        "limit": 80,
        "test_limit": 8,
        "blocks": "15-29",
        "cache_prefix": True,
        "epochs": 1,
        "max_new_tokens": 16,
    },
    "classification": {
        "kind": "classify",
        "causal": ["smollm2-135m"],
        "methods": ["probe", "lora", "full", "zero_shot"],
        "seeds": [0],
        "shuffled": False,
        "limit": 120,
        "epochs": 3,
    },
    "heads": {"kind": "attention", "models": ["all-minilm-l6-v2"], "limit": 12},
}


def bench(
    models: Annotated[tuple[str, ...], Parameter("--model")] = ("smollm2-135m", "gemma3-270m"),
    limit: Annotated[int, at_least(1, "Base prompts, with the rows that go with each.")] = 16,
    heatmaps: Annotated[int, at_least(0, "Base prompts that are read everywhere.")] = 2,
    threads: Annotated[int, at_least(1, "To a sum: on a crowded machine several wait.")] = 1,
    lenses_alone: Annotated[bool, Parameter(help="No other kind of analysis, no workers.")] = False,
    out: Out = Path("reports/bench"),
) -> None:
    """Planned against real: lenses over the shipped facts, then a small one of other kinds."""
    read = {"limit": limit, "heatmap_prompts": heatmaps} | _LENS
    asked = [("lens", {"models": [model]} | read, 0) for model in models]
    if not lenses_alone:
        more = {"models": [models[0]], "limit": 4 * limit}  # jobs for both
        asked += [("lens, 2 workers", read | more, 2)]
        asked += [(name, said, 0) for name, said in _SMALL.items()]
    rows = []
    for name, said, n_workers in asked:
        with TemporaryDirectory() as folder:
            made = _manifests(said, threads, n_workers, Path(folder))
            rows += [row for manifest in made for row in _rows(name, *manifest)]
    text = [
        "# Planned against real",
        "",
        f"The shipped facts ({limit} base prompts, {heatmaps} of them at every position) through "
        "the lenses final, next and raw; then small analyses of other kinds. `planned` is what "
        "`lensbench run` said before it loaded a model, `took` what the record says afterwards; "
        "the time begins with the model's hash and ends with the tables. Where a model ends its "
        "texts itself, the tokens planned are from texts that end at once to such as go on to "
        f"their limit; operations are of the latter. Threads: {threads}.",
        "",
        *markdown_table(_HEADER, rows),
        "",
        made_by("bench-plan"),
    ]
    write_text(out / "plan.md", "\n".join(text) + "\n")


def _manifests(
    said: dict[str, Any], threads: int, n_workers: int, folder: Path
) -> list[tuple[str, dict[str, Any]]]:
    """Of every planned record that a run of its own made, by its folder's name."""
    folder.chmod(0o755)  # an index is served by another user where this one is root
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    write_text(folder / "analysis.toml", "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "lensbench.cli", "run", str(folder)]
    command += ["--out", str(folder / "out"), "--threads", str(threads)]
    command += ["--workers", str(n_workers)] if n_workers else []
    subprocess.run(command, check=True)
    found = sorted((folder / "out").rglob("manifest.json"))
    made = [(path.parent.name, dict(read_json(path))) for path in found]
    return [(name, one) for name, one in made if {"planned", "took"} <= {*one}]


def _rows(analysis: str, record: str, manifest: dict[str, Any]) -> list[list[str]]:
    planned, took = manifest["planned"], manifest["took"]
    least, most = (end / 1e6 for end in planned["disk_bytes"])
    tokens, fewest = planned["n_tokens"], planned["least"]["n_tokens"]
    time = "not known"
    if planned["wall_s"] is not None:
        time = "{:.0f} to {:.0f}".format(*planned["wall_s"])
    read = "not noted" if took["n_tokens"] is None else f"{took['n_tokens']:,}"
    held = took["memory_bytes"]  # of the first record of a process: others raise no peak
    return [
        [
            analysis,
            record,
            "planned",
            f"{tokens:,}" if fewest == tokens else f"{fewest:,} to {tokens:,}",
            f"{planned['flops'] / 1e12:.2f}",
            f"{least:.2f} to {most:.2f}",
            f"{planned['memory_bytes'] / 1e9:.2f}",
            time,
        ],
        [
            analysis,
            record,
            "took",
            read,
            "",
            f"{took['disk_bytes'] / 1e6:.2f}",
            "no more" if held is None else f"{held / 1e9:.2f}",
            f"{took['wall_s']:.0f}",
        ],
    ]


if __name__ == "__main__":
    cyclopts.run(bench)
