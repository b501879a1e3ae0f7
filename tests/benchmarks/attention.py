"""All scores of all heads over many sentences, beside the forward passes that nobody can avoid.

The floor is Hugging Face's own eager attention with its patterns returned, batch by batch. Memory
is the peak of resident memory beyond that, each way in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import cyclopts
import psutil  # type: ignore[import-untyped]
import torch
from rich.console import Console
from torch import Tensor

from lensbench.attention.conditions import Text
from lensbench.attention.patterns import Source
from lensbench.attention.record import Reader, Reading, read
from lensbench.attention.scores import LEAST_TOKENS, Scorer
from lensbench.attention.settings import AttentionSettings
from lensbench.checkpoints.source import locate
from lensbench.files import write_text
from lensbench.models.load import load_model
from lensbench.prompts.batch import Batch, make_batch, plan_batches
from lensbench.prompts.prompt import choose
from lensbench.prompts.sets import load_prompts
from lensbench.records.engine import Job as RecordJob
from tests.benchmarks.measure import high_water, round_robin
from tests.benchmarks.peers import Job, hugging_face
from tests.benchmarks.table import Model, Out, Rounds, at_least, made_by, markdown_table, ratios

FLOOR = "Hugging Face, eager, patterns returned"
OURS = "lensbench, every score"
OURS_MOVED = "lensbench, every score, also of what is moved"
MOST_TIMES, MOST_MIB = 2.0, 100
_BATCH_TOKENS = 512
_console = Console(stderr=True)


@dataclass(frozen=True)
class Sentences:
    """The same token ids in the same batches, for everybody."""

    folder: Path
    n: int

    @cached_property
    def ids(self) -> list[tuple[int, ...]]:
        """Tokens of the first facts."""
        from lensbench.checkpoints.open import open_tokenizer

        words = open_tokenizer(self.folder)
        prompts = choose(load_prompts("facts").prompts, self.n)[: self.n]
        each = [tuple(words(prompt.prompt).input_ids) for prompt in prompts]
        return [ids for ids in each if len(ids) >= LEAST_TOKENS]

    @cached_property
    def batches(self) -> list[list[int]]:
        """Their numbers, batch by batch."""
        return plan_batches([len(ids) for ids in self.ids], _BATCH_TOKENS)

    def padded(self) -> list[Batch]:
        """Every batch as tensors."""
        return [make_batch(items, self.ids) for items in self.batches]


def floor(sentences: Sentences) -> Job:
    """Forward passes with patterns returned; they are dropped batch by batch."""
    run = _eager(sentences.folder)
    batches = sentences.padded()
    return lambda: [len(run(batch)) for batch in batches]


def hugging_face_scores(sentences: Sentences) -> Job:
    """The same, and the same scores of all layers' patterns of a batch at once."""
    run = _eager(sentences.folder)
    return _scored(sentences, run)


def transformer_lens_scores(sentences: Sentences) -> Job:
    """TransformerLens' `run_with_cache` of the patterns, and the same scores."""
    model = load_model(sentences.folder, device="cpu", dtype="float32")
    bridge = model.bridge

    def run(batch: Batch) -> Sequence[Tensor]:
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(
                batch.token_ids,
                names_filter=lambda name: name.endswith("hook_pattern"),
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
            )
        return [cache[f"blocks.{i}.attn.hook_pattern"] for i in range(model.n_layers)]

    return _scored(sentences, run)


def _eager(folder: Path) -> Callable[[Batch], Sequence[Tensor]]:
    model = hugging_face(folder)
    model.set_attn_implementation("eager")

    def run(batch: Batch) -> Sequence[Tensor]:
        with torch.inference_mode():
            given = {"attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
            out = model(batch.token_ids, output_attentions=True, use_cache=False, **given)
        attentions: Sequence[Tensor] = out.attentions
        return attentions

    return run


def _scored(sentences: Sentences, run: Callable[[Batch], Sequence[Tensor]]) -> Job:
    source = Source(load_model(sentences.folder, device="cpu", dtype="float32"))
    batches = sentences.padded()

    def job() -> object:
        found = []
        for batch in batches:
            scorers = [_scorers(source, sentences.ids[item]) for item in batch.items]
            for block, patterns in enumerate(run(batch)):
                for row, item in enumerate(batch.items):
                    n = len(sentences.ids[item])
                    found.append(scorers[row][source.windows[block]](patterns[row, :, :n, :n]))
        return found

    return job


def _scorers(source: Source, ids: Sequence[int]) -> dict[int | None, Scorer]:
    return {window: Scorer(facts) for window, facts in source.facts(ids).items()}


def lensbench(sentences: Sentences) -> Job:
    """Every score of the plain patterns, as a record has them, and the gate's error of rows."""
    return _lensbench(sentences, ("plain",))


def lensbench_moved(sentences: Sentences) -> Job:
    """The same, and once more weighted by what is moved."""
    return _lensbench(sentences, ("plain", "moved"))


def _lensbench(sentences: Sentences, weightings: tuple[str, ...]) -> Job:
    model = load_model(sentences.folder, device="cpu", dtype="float32")
    reader = Reader(Source(model), AttentionSettings(("text",), weightings))
    readings = [
        Reading("text", tuple(Text(f"p{item}", sentences.ids[item]) for item in items))
        for items in sentences.batches
    ]
    return lambda: [read(reader, RecordJob(i, one)) for i, one in enumerate(readings)]


WAYS: dict[str, Callable[[Sentences], Job]] = {
    FLOOR: floor,
    OURS: lensbench,
    OURS_MOVED: lensbench_moved,
    "Hugging Face output_attentions, then the same scores": hugging_face_scores,
    "TransformerLens run_with_cache, then the same scores": transformer_lens_scores,
}


def bench(
    model: Model = "smollm2-135m",
    sentences: Annotated[int, at_least(1, "How many.")] = 120,
    rounds: Rounds = 5,
    out: Out = Path("reports/bench"),
) -> None:
    """Time and memory of all scores of all heads beside Hugging Face and TransformerLens."""
    own = Sentences(locate(model).require_folder(), sentences)
    with _console.status(f"timing {model}"):
        seconds = round_robin({name: make(own) for name, make in WAYS.items()}, rounds)
    memory = {}
    for name in WAYS:
        with _console.status(f"memory: {name}"):
            memory[name] = peak_of(name, own)
    text = "\n".join(table(model, own, seconds, memory, rounds))
    write_text(out / "attention.md", text)
    Console().print(text, markup=False, highlight=False)


def table(
    model: str,
    sentences: Sentences,
    seconds: Mapping[str, Sequence[float]],
    memory: Mapping[str, int],
    rounds: int,
) -> list[str]:
    """The document's lines."""
    beyond = {name: (peak - memory[FLOOR]) / 2**20 for name, peak in memory.items()}
    rows = [
        [name, ratios(times, seconds[FLOOR]), f"{beyond[name]:,.0f}"]
        for name, times in seconds.items()
    ]
    checked = bounds(seconds, beyond)
    n_tokens = sum(map(len, sentences.ids))
    return [
        "# Attention heads beside their peers",
        "",
        f"Every score of every head of {model} over {len(sentences.ids)} sentences of {n_tokens} "
        f"tokens in all, {len(sentences.batches)} batches, float32. Time is a multiple of the "
        "forward passes of Hugging Face's own eager attention with its patterns returned, paired "
        f"within each of {rounds} rounds: median (least to most). Memory is the peak of resident "
        "memory beyond theirs, each in a process of its own.",
        "",
        *markdown_table(("what", "time, times the floor", "memory beyond it, MiB"), rows),
        "",
        *markdown_table(("bound", "at most", "measured", "holds"), checked),
        "",
        made_by("bench-attention"),
        "",
    ]


def bounds(
    seconds: Mapping[str, Sequence[float]], beyond_mib: Mapping[str, float]
) -> list[list[str]]:
    """What is promised, what was measured (the median of rounds), and whether that holds."""
    found: list[tuple[str, float, float, int]] = []
    for name in (OURS, OURS_MOVED):
        pairs = zip(seconds[name], seconds[FLOOR], strict=True)
        times = statistics.median(own / floor for own, floor in pairs)
        found.append((f"{name}: times the floor", MOST_TIMES, times, 2))
        found.append((f"{name}: memory beyond it, MiB", MOST_MIB, beyond_mib[name], 0))
    return [
        [what, f"{most:g}", f"{value:.{digits}f}", "yes" if value <= most else "**no**"]
        for what, most, value, digits in found
    ]


def peak_of(name: str, sentences: Sentences) -> int:
    """Bytes of resident memory that a way peaks above what it holds before, warmed up."""
    here = [sys.executable, "-m", "tests.benchmarks.attention"]
    command = [*here, "--memory", name, str(sentences.folder), str(sentences.n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def _measured(name: str, folder: Path, n: int) -> int:
    job = WAYS[name](Sentences(folder, n))
    job(), job()
    return high_water(job) - int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        peak = _measured(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        sys.stdout.write(json.dumps(peak) + "\n")
    else:
        cyclopts.run(bench)
