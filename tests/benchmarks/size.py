"""`python -m tests.benchmarks.size`: whole verbs at a real size, beside plain scripts.

The weights are random, for time and memory depend on shapes alone; they are written tensor by
tensor, so that making the model takes no more memory than a tensor. Every job is a process of its
own, as a user would start it, lensbench and the script in turn: seconds from its start to its end,
and to the first sign of life; its peak by the kernel's count, mapped weights included.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from lensbench.files import write_text
from tests.benchmarks.plain import BATCH, JOBS, N_NEW, N_PROMPTS, N_STEPS, PROMPT
from tests.benchmarks.table import Out, at_least, made_by, markdown_table

_SHARD_BYTES = 2 << 30
_BITS = {"lens": 16, "infer": 8, "infer4": 4, "train": 8}
_WORDS = {
    "lens": "one prompt, bfloat16",
    "infer": f"{N_PROMPTS} prompts x {N_NEW} new tokens, 8 bits",
    "infer4": f"{N_PROMPTS} prompts x {N_NEW} new tokens, 4 bits",
    "train": f"{N_STEPS} steps of {BATCH} pairs, 8 bits",
}


@dataclass(frozen=True)
class Run:
    """One process: seconds to its end and to its first word, and the bytes that it peaked at."""

    seconds: float
    silent: float
    peak_bytes: int


def bench(
    config: Annotated[Path, Parameter(help="A config.json of a Llama.")] = Path(
        "tests/configs/llama3-8b.json"
    ),
    jobs: Annotated[tuple[str, ...], Parameter(help=f"Of {', '.join(JOBS)}.")] = tuple(JOBS),
    rounds: Annotated[int, at_least(1, "Runs of each, in turn; the first hashes.")] = 3,
    out: Out = Path("reports/bench"),
) -> None:
    """Verbs beside plain Hugging Face, bitsandbytes and PEFT, at a real size."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        with console.status("writing random weights"):
            write_model(config, folder)
            sizes = _predicted(folder)
        found: dict[str, dict[str, list[Run]]] = {}
        for job in jobs:
            found[job] = {"lensbench": [], "plain": []}
            for turn in range(rounds):
                for who, runs in found[job].items():
                    console.log(f"{job}, {who}, {turn + 1} of {rounds}")
                    runs.append(run(command(job, who, folder), Path(place)))
    text = _markdown(config.stem, found, sizes)
    write_text(out / f"size-{config.stem}.md", text)
    Console().print(text, markup=False, highlight=False)


def write_model(config_file: Path, folder: Path) -> None:
    """A checkpoint of this config, a shard at a time, and a tokenizer of 300 words."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import AutoConfig, PreTrainedTokenizerFast

    from lensbench.checkpoints.open import empty_model

    fields = json.loads(config_file.read_text(encoding="utf-8")) | {"eos_token_id": None}
    model = empty_model(AutoConfig.for_model(**fields | {"torch_dtype": "bfloat16"}))
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    generator, places = torch.Generator().manual_seed(0), {}
    for number, names in enumerate(_shards(model)):
        shard = {}
        for name in names:
            weight = torch.empty(model.get_parameter(name).shape, dtype=torch.bfloat16)
            one = weight.ndim == 1
            shard[name] = weight.fill_(1) if one else weight.normal_(0, 0.02, generator=generator)
            places[name] = f"model-{number:05d}.safetensors"
        save_file(shard, folder / f"model-{number:05d}.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    write_text(folder / "model.safetensors.index.json", json.dumps(index))
    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(300)}, unk_token="w0"))
    core.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    words = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w0", eos_token="w299")
    words.save_pretrained(folder)


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


def command(job: str, who: str, folder: Path) -> list[str]:
    """What a user would type."""
    if who == "plain":
        return [sys.executable, "-m", "tests.benchmarks.plain", job, str(folder)]
    place = folder.parent
    out, prompts, pairs = place / "out", place / "prompts.csv", place / "pairs.jsonl"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    rows = [f"p{i},{PROMPT}" for i in range(N_PROMPTS)]
    write_text(prompts, "\n".join(["id,prompt", *rows]) + "\n")
    pair = {"instruction": PROMPT, "response": " ".join([PROMPT] * 4)}
    write_text(pairs, "".join(json.dumps({"id": str(i)} | pair) + "\n" for i in range(2 * BATCH)))
    bits = _BITS[job]
    train = ["train", folder, pairs, "-o", out / "adapter", "--bits", bits, "--rank", 8]
    train += ["--max-steps", N_STEPS, "--batch-size", BATCH, "--targets", "q,v"]
    train += ["--style", "none", "--eval-share", 0, "--examples", 0]
    infer = ["infer", f"{folder}@{bits}", prompts, "-o", out / "answers.csv"]
    infer += ["--max-new-tokens", N_NEW, "--batch-size", N_PROMPTS]
    lens: list[object] = ["lens", folder, PROMPT, "--dtype", "bfloat16"]
    chosen: Sequence[object] = {"lens": lens, "train": train}.get(job, infer)
    return [sys.executable, "-m", "lensbench.cli", *map(str, chosen)]


def run(words: Sequence[str], place: Path) -> Run:
    """A process to its end, with a cache of its own for hashes."""
    own = os.environ | {"LENSBENCH_CACHE": str(place / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    started = time.perf_counter()
    process = subprocess.Popen(words, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    said = process.stdout.read(1)
    silent = time.perf_counter() - started
    said += process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(words)}\n{said.decode(errors='replace')[-2000:]}")
    return Run(seconds, silent, used.ru_maxrss * 1024)


def _predicted(folder: Path) -> dict[int, tuple[int, int]]:
    """Bytes of the weights, and of the peak of loading, by bits."""
    from lensbench.checkpoints.open import open_config
    from lensbench.quantized.precision import PRECISIONS, sizes_of

    sizes = sizes_of(open_config(folder))
    return {bits: (sizes.weight_bytes(bits), sizes.loading_bytes(bits)) for bits in PRECISIONS}


def _markdown(
    name: str, found: dict[str, dict[str, list[Run]]], sizes: dict[int, tuple[int, int]]
) -> str:
    def of(runs: Sequence[Run], field: str) -> float:
        return statistics.median(getattr(one, field) for one in runs)

    rows = []
    for job, both in found.items():
        weights, loading = sizes[_BITS[job]]
        ours, theirs = both["lensbench"], both["plain"]
        rows.append(
            [
                _WORDS[job],
                f"{ours[0].seconds:.1f}",
                *(f"{of(runs, 'seconds'):.1f}" for runs in (ours[1:] or ours, theirs)),
                f"{of(ours[1:] or ours, 'seconds') / of(theirs, 'seconds'):.2f}",
                f"{of(ours, 'silent'):.1f}",
                *(f"{(of(runs, 'peak_bytes') - weights) / 1e9:.2f}" for runs in (ours, theirs)),
                f"{loading / 1e9:.1f}",
                f"{of(ours, 'peak_bytes') / 1e9:.1f}",
            ]
        )
    header = ["job", "first, s", "later, s", "plain, s", "times plain", "silent, s"]
    header += ["beyond weights, GB", "plain's, GB", "loading as predicted, GB", "peak, GB"]
    lines = [
        f"# A model of the size of {name}, random weights",
        "",
        "Whole processes, from start to end. first: with the hash of the weights; later: with the "
        "hash remembered, the median. Beyond weights: the peak of the process without the bytes of "
        "the weights at that precision; of a plain script mapped files count, too. The prediction "
        "is of loading, without the program (half a GB) and what is done with the model.",
        "",
        *markdown_table(header, rows),
        "",
        made_by("bench-size"),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cyclopts.run(bench)
