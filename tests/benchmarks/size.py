"""`python -m tests.benchmarks.size`: whole verbs at a real size, beside plain scripts.

The weights are random, for time and memory depend on shapes alone; they are written once, tensor by
tensor, into the cache folder (`--remove` deletes them), so that making the model takes no more
memory than a tensor. Every job is a process of its own, as a user would start it at a terminal,
lensbench and the script in turn: seconds from its start to its end, to the first sign of life and
of the longest silence; its peak by the kernel's count, mapped weights included. The files are in
memory, as far as it holds them, before each. What is measured is written after each job.
"""

from __future__ import annotations

import itertools
import json
import os
import pty
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from lensbench.checkpoints.source import cache_dir
from lensbench.files import write_text
from tests.benchmarks.plain import BATCH, JOBS, N_PROMPTS, PROMPT
from tests.benchmarks.table import Out, at_least, made_by, markdown_table

_SHARD_BYTES = 2 << 30
_BITS = {"lens": 16, "infer": 8, "infer4": 4, "train": 8}
_VERBS = {"lens": "lens", "infer": "infer", "infer4": "infer", "train": "train"}
_SHOWN = 2000  # characters of what a failed job said


@dataclass(frozen=True)
class Run:
    """One process: seconds to its end and first word, its longest silence, its peak in bytes."""

    seconds: float
    first: float
    silent: float
    peak_bytes: int


@dataclass(frozen=True)
class Sizes:
    """How much each job does, and the bytes that it is said to take."""

    new_tokens: int
    steps: int
    weights: Mapping[str, int] = field(default_factory=dict)
    peaks: Mapping[str, int] = field(default_factory=dict)

    def words(self, job: str) -> str:
        """What a job is, for a reader."""
        if job == "lens":
            return "lens: one prompt, bfloat16"
        if job == "train":
            return f"train: {self.steps} steps of {BATCH} pairs, 8 bits"
        return f"infer: {N_PROMPTS} prompts x {self.new_tokens} new tokens, {_BITS[job]} bits"


def bench(
    config: Annotated[Path, Parameter(help="A config.json of a Llama.")] = Path(
        "tests/configs/llama3-8b.json"
    ),
    parts: Annotated[str, Parameter(help=f"Of {', '.join(JOBS)}; commas between.")] = ",".join(
        JOBS
    ),
    rounds: Annotated[int, at_least(1, "Runs of each, lensbench and the script in turn.")] = 1,
    new_tokens: Annotated[int, at_least(1, "Of each answer; 1 is about the start.")] = 8,
    steps: Annotated[int, at_least(1, "Of training; 1 is about the start.")] = 2,
    folder: Annotated[Path | None, Parameter(help="Of the weights. Default: in the cache.")] = None,
    remove: Annotated[bool, Parameter(help="Delete the weights in the end.")] = False,
    blocks: Annotated[
        int | None, Parameter(help="Fewer blocks than the config has.", validator=Number(gte=1))
    ] = None,
    out: Out = Path("reports/bench"),
) -> None:
    """Verbs beside plain Hugging Face, bitsandbytes and PEFT, at a real size."""
    jobs = [job for job in parts.split(",") if job]
    if unknown := [job for job in jobs if job not in JOBS]:
        raise SystemExit(f"no job is called {', '.join(unknown)}: choose from {', '.join(JOBS)}")
    name = config.stem if blocks is None else f"{config.stem}-{blocks}-blocks"
    folder = folder or cache_dir() / "bench" / name
    say = Console(stderr=True).log
    if not folder.is_dir():
        say(f"writing random weights into {folder}")
        write_model(config, folder, blocks)
    say(f"weights: {folder}, {_bytes(folder) / 1e9:.1f} GB")
    sizes = _sizes(folder, new_tokens, steps)
    with tempfile.TemporaryDirectory() as place:
        hash_s = _hashed(folder, Path(place))
        say(f"hashing them, once for each machine: {hash_s:.1f} s")
        found: dict[str, dict[str, list[Run]]] = {}
        for job in jobs:
            found[job] = {"lensbench": [], "plain": []}
            for turn in range(rounds):
                for who, runs in found[job].items():
                    _into_memory(folder)
                    say(f"{job}, {who}, {turn + 1} of {rounds}")
                    runs.append(run(command(job, who, folder, Path(place), sizes), Path(place)))
                    say(f"  {runs[-1].seconds:.1f} s, peak {runs[-1].peak_bytes / 1e9:.1f} GB")
            text = markdown(name, found, sizes, hash_s)
            write_text(out / f"size-{name}.md", text)
    Console().print(text, markup=False, highlight=False)
    if remove:
        shutil.rmtree(folder)


def write_model(config_file: Path, folder: Path, blocks: int | None = None) -> None:
    """A checkpoint of this config, a shard at a time, and a tokenizer of 300 words."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import AutoConfig, PreTrainedTokenizerFast

    from lensbench.checkpoints.open import empty_model

    fields = json.loads(config_file.read_text(encoding="utf-8")) | {"eos_token_id": None}
    fields |= {"torch_dtype": "bfloat16"} | ({"num_hidden_layers": blocks} if blocks else {})
    model = empty_model(AutoConfig.for_model(**fields))
    part = folder.with_name(f"{folder.name}.part")  # it has its name when it is whole
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model.config.save_pretrained(part)
    generator, places = torch.Generator().manual_seed(0), {}
    for number, names in enumerate(_shards(model)):
        shard = {}
        for name in names:
            weight = torch.empty(model.get_parameter(name).shape, dtype=torch.bfloat16)
            one = weight.ndim == 1
            shard[name] = weight.fill_(1) if one else weight.normal_(0, 0.02, generator=generator)
            places[name] = f"model-{number:05d}.safetensors"
        save_file(shard, part / f"model-{number:05d}.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    write_text(part / "model.safetensors.index.json", json.dumps(index))
    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(300)}, unk_token="w0"))
    core.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    words = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w0", eos_token="w299")
    words.save_pretrained(part)
    part.rename(folder)


def _shards(model: Any) -> Iterator[list[str]]:
    """The names of the weights, in groups of so many bytes; a tied head is none."""
    names, size = [], 0
    for name, weight in model.named_parameters():
        names.append(name)
        size += 2 * weight.numel()
        if size >= _SHARD_BYTES:
            yield names
            names, size = [], 0
    if names:
        yield names


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _into_memory(folder: Path) -> None:
    """Read the files once, so that no process pays for the disk in another's place."""
    for path in _files(folder):
        with path.open("rb", buffering=0) as handle:
            while handle.read(16 << 20):
                pass


def _hashed(folder: Path, place: Path) -> float:
    """Seconds for the hash of the weights, by lensbench itself: its verbs know it from then on."""
    _into_memory(folder)
    code = "import sys; from pathlib import Path; from lensbench.checkpoints.hashes import hashes; "
    started = time.perf_counter()
    words = [sys.executable, "-c", f"{code}hashes(Path(sys.argv[1]))", str(folder)]
    subprocess.run(words, env=_own(place), check=True)
    return time.perf_counter() - started


def command(job: str, who: str, folder: Path, place: Path, sizes: Sizes) -> list[str]:
    """What a user would type."""
    n = sizes.steps if job == "train" else sizes.new_tokens
    if who == "plain":
        return [sys.executable, "-m", "tests.benchmarks.plain", job, str(folder), str(n)]
    out, prompts, pairs = place / "out", place / "prompts.csv", place / "pairs.jsonl"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    rows = [f"p{i},{PROMPT}" for i in range(N_PROMPTS)]
    write_text(prompts, "\n".join(["id,prompt", *rows]) + "\n")
    pair = {"instruction": PROMPT, "response": " ".join([PROMPT] * 4)}
    write_text(pairs, "".join(json.dumps({"id": str(i)} | pair) + "\n" for i in range(2 * BATCH)))
    bits = _BITS[job]
    train = ["train", folder, pairs, "-o", out / "adapter", "--bits", bits, "--rank", 8]
    train += ["--max-steps", n, "--batch-size", BATCH, "--targets", "q,v"]
    train += ["--style", "none", "--eval-share", 0, "--examples", 0]
    infer = ["infer", f"{folder}@{bits}", prompts, "-o", out / "answers.csv"]
    infer += ["--max-new-tokens", n, "--batch-size", N_PROMPTS]
    lens: list[object] = ["lens", folder, PROMPT, "--dtype", "bfloat16"]
    chosen: Sequence[object] = {"lens": lens, "train": train}.get(job, infer)
    return [sys.executable, "-m", "lensbench.cli", *map(str, chosen)]


def _own(place: Path) -> dict[str, str]:
    """The environment, with a cache of its own for hashes."""
    own = {"LENSBENCH_CACHE": str(place / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | own | {"TERM": "xterm"}


def run(words: Sequence[str], place: Path) -> Run:
    """A process to its end, at a terminal. Raises SystemExit, with what it said, where it failed.

    A plain script says nothing before its first number; what libraries draw counts as a word.
    """
    terminal, end = pty.openpty()
    started = time.perf_counter()
    process = subprocess.Popen(words, env=_own(place), stdin=end, stdout=end, stderr=end)
    os.close(end)
    said, times = b"", [started]
    with suppress(OSError):  # the terminal's last reader is gone
        while chunk := os.read(terminal, 1 << 16):
            times.append(time.perf_counter())
            said = (said + chunk)[-_SHOWN:]
    os.close(terminal)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    times.append(time.perf_counter())
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}\n{said.decode(errors='replace')}")
    gaps = [later - one for one, later in itertools.pairwise(times)]
    return Run(times[-1] - started, gaps[0], max(gaps), used.ru_maxrss * 1024)


def _sizes(folder: Path, new_tokens: int, steps: int) -> Sizes:
    """The weights' bytes of each job, and its peak as it is predicted."""
    from lensbench.checkpoints.open import open_config
    from lensbench.quantized.peaks import Batch, peak_bytes
    from lensbench.quantized.precision import sizes_of

    own, length = sizes_of(open_config(folder)), len(PROMPT.split())
    batches = {
        "lens": Batch(1, length, n_read=length),
        "infer": Batch(N_PROMPTS, length, new_tokens),
        "infer4": Batch(N_PROMPTS, length, new_tokens),
        "train": Batch(BATCH, 5 * length),
    }
    jobs: Any = _BITS.items()
    weights = {job: own.weight_bytes(bits) for job, bits in jobs}
    verbs: Any = _VERBS
    peaks = {job: peak_bytes(verbs[job], own, bits, batches[job]) for job, bits in jobs}
    return Sizes(new_tokens, steps, weights, peaks)


def markdown(
    name: str, found: Mapping[str, Mapping[str, list[Run]]], sizes: Sizes, hash_s: float
) -> str:
    """The table, of whatever is there."""

    def of(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
        return statistics.median(map(value, runs))

    rows = []
    for job, both in found.items():
        ours, theirs = both["lensbench"], both["plain"]
        pairs = [a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True)]
        beyond = [
            of(who, lambda one: one.peak_bytes) - sizes.weights[job] for who in (ours, theirs)
        ]
        peak = of(ours, lambda one: one.peak_bytes)
        rows.append(
            [
                sizes.words(job),
                f"{of(ours, lambda one: one.seconds):.1f}",
                f"{of(theirs, lambda one: one.seconds):.1f}",
                f"{statistics.median(pairs):.2f}",
                f"{of(ours, lambda one: one.first):.1f}",
                f"{of(ours, lambda one: one.silent):.1f}",
                *(f"{one / 1e9:.2f}" for one in beyond),
                f"{peak / 1e9:.2f}",
                f"{sizes.peaks[job] / peak:.2f}",
            ]
        )
    header = ["job", "s", "plain, s", "times plain", "first word, s", "longest silence, s"]
    header += ["beyond weights, GB", "plain's, GB", "peak, GB", "predicted / peak"]
    n = max((len(both["plain"]) for both in found.values()), default=0)
    lines = [
        f"# A model of the size of {name}, random weights",
        "",
        f"Whole processes at a terminal, from start to end, {n} in turn, the median; the files are "
        "read once before each, and their hashes are known. Each start of a verb that writes a "
        f"record after the files have changed takes {hash_s:.1f} s more. Beyond weights: the peak "
        "of the process without the bytes of the weights at that precision; mapped files count.",
        "",
        *markdown_table(header, rows),
        "",
        made_by("bench-size"),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cyclopts.run(bench)
