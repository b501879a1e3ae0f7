"""`python -m tests.benchmarks.size`: whole verbs at a real size, beside plain scripts.

The weights are random, for time and memory depend on shapes alone; they are written once, tensor by
tensor, into the cache folder (`--remove` deletes them), so that making the model takes no more
memory than a tensor. Every job is a process of its own, as a user would start it at a terminal,
lensbench and the script in turn (`harness/processes.py`). The files are in memory, as far as it
holds them, before each. What is measured is written after each job, into a table that keeps what
other calls measured: a large model is done a job at a time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from lensbench.checkpoints.source import cache_dir
from lensbench.files import write_text
from tests.benchmarks.plain import BATCH, N_PROMPTS, PROMPT, VERBS
from tests.benchmarks.random_weights import into_memory, weight_file_bytes, write_model
from tests.benchmarks.table import Out, at_least, made_by, markdown_table
from tests.harness.processes import Run, run

_BITS = {"lens": 16, "infer": 8, "train": 8}  # where the name of a job says none
_JOB = re.compile(rf"({'|'.join(VERBS)})(32|16|8|4)?")
_DTYPES = {32: "float32", 16: "bfloat16"}
_SETTLED_S = 3  # of files that were written just before no hash is kept (`identity.py`)


@dataclass(frozen=True)
class Job:
    """A verb and the bits of its model's linear layers; so many new tokens, or steps."""

    verb: str
    bits: int
    n: int

    @classmethod
    def of(cls, name: str, new_tokens: int, steps: int) -> Job:
        """Raises ValueError for a name that is none, as `lens`, `infer4`."""
        found = _JOB.fullmatch(name)
        if found is None or (found[1] == "lens" and found[2] in ("8", "4")):
            raise ValueError(name)
        n = {"train": steps, "infer": new_tokens}.get(found[1], 1)
        return cls(found[1], int(found[2] or _BITS[found[1]]), n)

    @property
    def words(self) -> str:
        """What it is, for a reader."""
        what = {
            "lens": "one prompt",
            "infer": f"{N_PROMPTS} prompts x {self.n} new tokens",
            "train": f"{self.n} step{'s' * (self.n > 1)} of {BATCH} pairs",
        }
        return f"{self.verb}: {what[self.verb]}, {self.bits} bits"

    def command(self, who: str, folder: Path, place: Path) -> list[str]:
        """What a user would type."""
        if who == "plain":
            words = [self.verb, self.bits, folder, self.n]
            return [sys.executable, "-m", "tests.benchmarks.plain", *map(str, words)]
        out, prompts, pairs = place / "out", place / "prompts.csv", place / "pairs.jsonl"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        rows = [f"p{i},{PROMPT}" for i in range(N_PROMPTS)]
        write_text(prompts, "\n".join(["id,prompt", *rows]) + "\n")
        pair = {"instruction": PROMPT, "response": " ".join([PROMPT] * 4)}
        lines = [json.dumps({"id": str(i)} | pair) + "\n" for i in range(2 * BATCH)]
        write_text(pairs, "".join(lines))
        typed: dict[str, list[object]] = {
            "lens": ["lens", folder, PROMPT, "--dtype", _DTYPES.get(self.bits)],
            "infer": [
                *("infer", f"{folder}@{self.bits}", prompts, "-o", out / "answers.csv"),
                *("--max-new-tokens", self.n, "--batch-size", N_PROMPTS),
            ],
            "train": [
                *("train", folder, pairs, "-o", out / "adapter", "--bits", self.bits, "--rank", 8),
                *("--max-steps", self.n, "--batch-size", BATCH, "--targets", "q,v"),
                *("--style", "none", "--eval-share", 0, "--examples", 0),
            ],
        }
        return [sys.executable, "-m", "lensbench.cli", *map(str, typed[self.verb])]

    def bytes(self, folder: Path) -> dict[str, int]:
        """Of the weights, and of its peak as it is predicted."""
        from lensbench.checkpoints.open import open_config
        from lensbench.quantized.peaks import Batch, peak_bytes
        from lensbench.quantized.precision import sizes_of

        own, length, bits, verb = sizes_of(open_config(folder)), len(PROMPT.split()), *self._typed
        batches = {
            "lens": Batch(1, length, n_read=length),
            "infer": Batch(N_PROMPTS, length, self.n),
            "train": Batch(BATCH, 5 * length + 1, n_read=BATCH * (4 * length + 1)),
        }
        peak = peak_bytes(verb, own, bits, batches[verb])
        return {"weights": own.weight_bytes(bits), "predicted": peak}

    @property
    def _typed(self) -> tuple[Any, Any]:
        return self.bits, self.verb


def bench(
    config: Annotated[Path, Parameter(help="A config.json of a Llama.")] = Path(
        "tests/configs/llama3-8b.json"
    ),
    parts: Annotated[
        str, Parameter(help="Verbs with their bits, commas between: lens32, infer4, train8.")
    ] = "lens,infer,infer4,train",
    rounds: Annotated[int, at_least(1, "Runs of each, lensbench and the script in turn.")] = 1,
    new_tokens: Annotated[int, at_least(1, "Of each answer; 4 is about the start.")] = 4,
    steps: Annotated[int, at_least(1, "Of training; 1 is about the start.")] = 1,
    folder: Annotated[Path | None, Parameter(help="Of the weights. Default: in the cache.")] = None,
    remove: Annotated[bool, Parameter(help="Delete the weights in the end.")] = False,
    blocks: Annotated[
        int | None, Parameter(help="Fewer blocks than the config has.", validator=Number(gte=1))
    ] = None,
    out: Out = Path("reports/bench"),
) -> None:
    """Verbs beside plain Hugging Face, bitsandbytes and PEFT, at a real size."""
    try:
        jobs = [Job.of(name, new_tokens, steps) for name in parts.split(",") if name]
    except ValueError as error:
        raise SystemExit(f"no job is called {error}: write lens, lens32, infer4, train") from error
    name = config.stem if blocks is None else f"{config.stem}-{blocks}-blocks"
    folder = folder or cache_dir() / "bench" / name
    say = Console(stderr=True).log
    if not folder.is_dir():
        say(f"writing random weights into {folder}")
        write_model(config, folder, blocks)
        time.sleep(_SETTLED_S)
    say(f"weights: {folder}, {weight_file_bytes(folder) / 1e9:.1f} GB")
    with tempfile.TemporaryDirectory() as place:
        env = _own(Path(place))
        hash_s = _hashed(folder, env)
        say(f"hashing them, once for each machine: {hash_s:.1f} s")
        for job in jobs:
            runs: dict[str, list[Run]] = {"lensbench": [], "plain": []}
            for turn in range(rounds):
                for who, own in runs.items():
                    into_memory(folder)
                    say(f"{job.words}, {who}, {turn + 1} of {rounds}")
                    own.append(run(job.command(who, folder, Path(place)), env))
                    say(f"  {own[-1].seconds:.1f} s, peak {own[-1].peak_bytes / 1e9:.1f} GB")
            measured = job.bytes(folder) | {"made": made_by("bench-size"), "hash_s": hash_s}
            measured |= {who: [asdict(one) for one in own] for who, own in runs.items()}
            text = keep(out / f"size-{name}", name, job.words, measured)
    Console().print(text, markup=False, highlight=False)
    if remove:
        shutil.rmtree(folder)


def _hashed(folder: Path, env: Mapping[str, str]) -> float:
    """Seconds for the hash of the weights, by lensbench itself: its verbs know it from then on."""
    into_memory(folder)
    code = "import sys; from pathlib import Path; from lensbench.checkpoints.hashes import hashes; "
    started = time.perf_counter()
    words = [sys.executable, "-c", f"{code}hashes(Path(sys.argv[1]))", str(folder)]
    subprocess.run(words, env=env, check=True)
    return time.perf_counter() - started


def _own(place: Path) -> dict[str, str]:
    """The environment, with a cache of its own for hashes."""
    own = {"LENSBENCH_CACHE": str(place / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | own | {"TERM": "xterm"}


def keep(path: Path, name: str, job: str, measured: Mapping[str, Any]) -> str:
    """Put what was measured of a job in the place of what was, and write the table of all."""
    file = path.with_suffix(".json")
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = dict(sorted((found | {job: measured}).items()))
    write_text(file, json.dumps(found, indent=1) + "\n")
    text = markdown(name, found)
    write_text(path.with_suffix(".md"), text)
    return text


def markdown(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, of whatever is there."""
    header = ["job", "s", "plain, s", "times plain", "first word, s", "longest silence, s"]
    header += ["beyond weights, GB", "plain's, GB", "read, GB", "plain's read, GB"]
    header += ["peak, GB", "predicted / peak"]
    made: dict[str, list[str]] = {}
    for job, one in found.items():
        made.setdefault(one["made"], []).append(job.partition(",")[0] + job[job.rfind(",") :])
    notes = [
        line if len(made) == 1 else f"{'; '.join(jobs)}: {line}" for line, jobs in made.items()
    ]
    hash_s = max(one["hash_s"] for one in found.values())
    lines = [
        f"# A model of the size of {name}, random weights",
        "",
        "Whole processes at a terminal, from start to end, lensbench and the script in turn, the "
        "median; the files are read once before each, and their hashes are known. Each start of a "
        f"verb that writes a record after the files have changed takes {hash_s:.1f} s more. Beyond "
        "weights: the peak of the process, Python and torch included, without the bytes of the "
        "weights at that precision; mapped files count. Read: by calls, so that what is mapped is "
        "not among it.",
        "",
        *markdown_table(header, [_row(job, one) for job, one in found.items()]),
        *(line for note in notes for line in ("", note)),
    ]
    return "\n".join(lines) + "\n"


def _row(job: str, one: Mapping[str, Any]) -> list[str]:
    """Of one job."""

    def of(who: str, key: str) -> float:
        return statistics.median(run[key] for run in one[who])

    both: Sequence[tuple[Any, Any]] = list(zip(one["lensbench"], one["plain"], strict=True))
    peak = of("lensbench", "peak_bytes")
    return [
        job,
        f"{of('lensbench', 'seconds'):.1f}",
        f"{of('plain', 'seconds'):.1f}",
        f"{statistics.median(a['seconds'] / b['seconds'] for a, b in both):.2f}",
        f"{of('lensbench', 'first'):.1f}",
        f"{of('lensbench', 'silent'):.1f}",
        *(f"{(of(w, 'peak_bytes') - one['weights']) / 1e9:.2f}" for w in ("lensbench", "plain")),
        *(f"{of(who, 'read_bytes') / 1e9:.2f}" for who in ("lensbench", "plain")),
        f"{peak / 1e9:.2f}",
        f"{one['predicted'] / peak:.2f}",
    ]


if __name__ == "__main__":
    cyclopts.run(bench)
