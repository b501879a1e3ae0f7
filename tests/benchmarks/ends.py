"""`python -m tests.benchmarks.ends`: what the end of a run takes, over ten times the prompts.

When the last batch is read, the rows come in the order of the prompts and are written as tables. A
random model of 30 small blocks leaves as many rows as SmolLM2 does. Each run is a process of its
own; the peak of its end is the kernel's mark, set back before it.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from lensbench.files import write_text
from tests.benchmarks.measure import high_water
from tests.benchmarks.table import Out, made_by, markdown_table

_COLUMNS = ("id", "relation", "prompt", "answer")
_ANSWERS = ("Berlin", "Paris", "Rome")
_BLOCKS = 30


def bench(
    prompts: Annotated[tuple[int, ...], Parameter(help="Of each run.")] = (100, 1_000, 10_000),
    out: Out = Path("reports/bench"),
) -> None:
    """Seconds and peak of the end of a run, beside the whole run."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as place:
        _write_model(Path(place) / "model")
        rows = []
        for n in prompts:
            console.log(f"{n:,} prompts")
            rows.append(_cells(_apart(Path(place), n)))
    text = _markdown(rows)
    write_text(out / "ends.md", text)
    Console().print(text, markup=False, highlight=False)


def _write_model(folder: Path) -> None:
    from tests.harness.tiny import TINY, save

    save(TINY["llama"], folder, {"num_hidden_layers": _BLOCKS})


def _apart(folder: Path, n: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.ends", "measure", str(folder), str(n)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(folder: Path, n: int) -> None:
    """One run, and its end by itself."""
    from lensbench.records.recording import Recording
    from lensbench.studies.lens import run
    from lensbench.studies.specs.lens import RunSpec

    took: dict[str, Any] = {}
    finish = Recording.finish

    def measured(record: Recording, *given: Any, **facts: Any) -> None:
        took["before_bytes"], started = high_water(lambda: None), time.process_time()
        took["peak_bytes"] = high_water(lambda: finish(record, *given, **facts))
        took["seconds"] = time.process_time() - started

    Recording.finish = measured  # type: ignore[method-assign]
    prompts = _write_prompts(folder / f"{n}.csv", n)
    spec = RunSpec(
        models=(str(folder / "model"),), prompts=str(prompts), lenses=("final",), device="cpu"
    )
    outcome = run(spec, folder / f"run-{n}")
    if not outcome.ok:
        raise SystemExit(f"the run failed: {outcome}")
    took |= {"prompts": n, "whole_seconds": time.process_time()}
    sys.stdout.write(json.dumps(took) + "\n")


def _write_prompts(path: Path, n: int) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        for i in range(n):
            text = f"In the year {i} the capital of Germany is"
            rows.writerow([f"p{i:05d}", f"relation {i % 40}", text, _ANSWERS[i % len(_ANSWERS)]])
    return path


def _cells(took: dict[str, Any]) -> list[str]:
    n, before, peak = took["prompts"], took["before_bytes"], took["peak_bytes"]
    return [
        f"{n:,}",
        f"{n * (_BLOCKS + 1):,}",
        f"{before / 1e6:,.0f}",
        f"{(peak - before) / 1e6:,.0f}",
        f"{took['seconds']:.1f}",
        f"{1e3 * took['seconds'] / n:.2f}",
        f"{took['whole_seconds']:.0f}",
    ]


def _markdown(rows: list[list[str]]) -> str:
    header = ["prompts", "readings", "MB before", "MB more at the end", "s", "ms a prompt"]
    lines = [
        "# The end of a run",
        "",
        *markdown_table([*header, "whole run, s"], rows),
        "",
        "Resident memory before the tables are made and its peak while they are; processor "
        f"seconds. One lens at the last position of a random model of {_BLOCKS} blocks.",
        "",
        made_by("bench-report"),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        cyclopts.run(bench)
