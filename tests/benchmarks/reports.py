"""`python -m tests.benchmarks.reports`: reports over many models, beside the way they were built.

The records are made of arrays (`many_records`). Each report is built in a process of its own, which
says its processor seconds and its peak by the kernel's mark, of which a part is there before any
record is read (the first row). The way it was is the package as another commit has it, on the same
records.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from lensbench.files import write_text
from tests.benchmarks.many_records import Many, write_many
from tests.benchmarks.table import Out, made_by, markdown_table

_ROOT = Path(__file__).parents[2]
# The program tells its own peak: what `wait4` tells of a child begins with the memory of the
# process that it was forked from.
_BUILD = """
import json, sys, time
from pathlib import Path
from lensbench.records.manifest import peak_memory_bytes
from lensbench.report.build import build_report
build_report([Path(sys.argv[1])], Path(sys.argv[2]))
print(json.dumps([time.process_time(), peak_memory_bytes()]))
"""


@dataclass(frozen=True)
class Built:
    """One report: processor seconds and the bytes that the process peaked at."""

    seconds: float
    peak_bytes: int


def bench(
    models: Annotated[tuple[int, ...], Parameter(help="Records of a report.")] = (1, 5, 50),
    prompts: Annotated[int, Parameter(help="Of each model.")] = 10_000,
    blocks: Annotated[int, Parameter(help="Of each model.")] = 9,
    before: Annotated[str, Parameter(help="Commit of the way it was.")] = "4ae4be1",
    most_before: Annotated[int, Parameter(help="Most records built the way it was.")] = 5,
    out: Out = Path("reports/bench"),
) -> None:
    """Time and peak of a report over many records, today and as it was."""
    console, many = Console(stderr=True), Many(prompts, blocks)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        old = _unpacked(before, folder / "before")
        console.log("writing records")
        write_many(folder / "few", 2, Many(40, blocks))
        write_many(folder / "run", max(models), many)
        rows = [_row("2 models x 40 prompts", folder, folder / "few", old)]
        for n in models:
            console.log(f"{n} models")
            run = _first(folder, n)
            name = f"{n} models x {prompts:,} prompts"
            rows.append(_row(name, folder, run, old if n <= most_before else None, n * many.rows))
    text = _markdown(rows, before)
    write_text(out / "reports.md", text)
    Console().print(text, markup=False, highlight=False)


def _unpacked(commit: str, folder: Path) -> Path:
    """The package as a commit has it."""
    folder.mkdir()
    packed = ["git", "archive", commit, "lensbench"]
    data = subprocess.run(packed, cwd=_ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "x", "-C", str(folder)], input=data, check=True)
    return folder


def _first(folder: Path, n: int) -> Path:
    """A run folder with the first records."""
    run = folder / f"run-{n}"
    run.mkdir()
    for record in sorted((folder / "run").iterdir())[:n]:
        (run / record.name).mkdir()
        for file in record.iterdir():
            os.link(file, run / record.name / file.name)
    return run


def _row(name: str, folder: Path, run: Path, old: Path | None, n_rows: int = 0) -> list[str]:
    """Both ways on the same records, and whether they give the same files."""
    today = _built(_ROOT, run, folder / f"{run.name}-today")
    cells = [name, f"{n_rows:,}" if n_rows else "-"]
    cells += [f"{today.seconds:.0f}", f"{today.peak_bytes / 1e6:,.0f}"]
    if old is None:
        return [*cells, "-", "-", "-", "-"]
    was = _built(old, run, folder / f"{run.name}-was")
    ratios = f"{today.seconds / was.seconds:.2f} / {today.peak_bytes / was.peak_bytes:.2f}"
    alike = _alike(folder / f"{run.name}-today", folder / f"{run.name}-was")
    return [*cells, f"{was.seconds:.0f}", f"{was.peak_bytes / 1e6:,.0f}", ratios, alike]


def _built(package: Path, run: Path, out: Path) -> Built:
    own = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _BUILD, str(run), str(out)]
    done = subprocess.run(
        command, env=own, cwd=package, stdout=subprocess.PIPE, text=True, check=True
    )
    return Built(*json.loads(done.stdout.splitlines()[-1]))


def _alike(ours: Path, theirs: Path) -> str:
    """How many of the files are the same, but for pages, which say what they leave out."""
    both = [{p.relative_to(one) for p in one.rglob("*.*") if p.is_file()} for one in (ours, theirs)]
    names = [name for name in both[0] | both[1] if name.suffix != ".html"]
    same = [
        name
        for name in names
        if name in both[0] & both[1] and (ours / name).read_bytes() == (theirs / name).read_bytes()
    ]
    return f"{len(same)} of {len(names)}"


def _markdown(rows: Sequence[Sequence[str]], before: str) -> str:
    header = ["records", "lens rows", "s", "peak, MB", "as it was, s", "peak, MB"]
    header += ["times as it was: s / peak", "files the same"]
    lines = [
        "# Reports over many models",
        "",
        *markdown_table(header, rows),
        "",
        "Processor seconds and the peak of the process that builds the report, its libraries "
        f"included (the first row is little else); as it was: commit {before}, with every table of "
        "every record in memory. Files: Markdown, tables and figures, byte for byte. The records "
        "are made of arrays, with one lens and 40 relations.",
        "",
        made_by("bench-report"),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cyclopts.run(bench)
