"""The kinds of run that are disturbed, on a tiny model: each a call into a folder."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.cli.quantized.rag.build import build
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.rag.database import connected, find_place
from lensbench.quantized.rag.spec import ReadingSpec
from lensbench.quantized.training.train import train
from lensbench.studies.lens import run
from lensbench.studies.specs.cache import CacheSpec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.stages.cache import run_cache
from tests.harness.facts import facts_rows
from tests.harness.files import UNEQUAL, contents, write_csv, write_jsonl
from tests.harness.inference import PROMPTS, WARM
from tests.harness.tiny import TINY, Case, save
from tests.harness.tiny_bert import WORDS, save_bert
from tests.harness.training import ROWS, spec_of

# What equal runs may differ in besides: times, and a trainer's log of them.
_APART = (*UNEQUAL, "training.parquet", "README.md", "checkpoints")
_N_DOCUMENTS = 900  # four transactions


def files(out: Path) -> dict[str, bytes]:
    """Every file that equal runs have alike, by its path."""
    return contents(out, _APART)


@dataclass(frozen=True)
class Work:
    """A kind of run: `call` gives the function and its arguments for a run into a folder.

    `left`: what equal runs leave alike in their folder, by its name.
    """

    name: str
    call: Callable[[Path], tuple[Any, ...]]
    left: Callable[[Path], dict[str, bytes]] = files


def works(world: Path) -> list[Work]:
    """Lens run, cache, traced inference and training; `world` takes the model and the inputs."""
    model = save(TINY["llama"], world / "llama")
    facts = write_csv(world / "facts.csv", facts_rows())
    data = write_jsonl(world / "data.jsonl", ROWS[:14])
    case = Case("llama", TINY["llama"], model)

    def lens(out: Path) -> tuple[Any, ...]:
        return run, RunSpec(models=str(model), prompts=str(facts), limit=None, batch_tokens=1), out

    def cache(out: Path) -> tuple[Any, ...]:
        spec = CacheSpec(str(model), str(facts), batch_tokens=1, positions="all")
        return run_cache, spec, out / "cache"

    def training(out: Path) -> tuple[Any, ...]:
        spec = spec_of(case, data, None, out / "adapter", lora=Lora("1-2", dropout=0.1))
        return train, spec

    made = {"lens run": lens, "cache": cache, "infer, traced": _inference(model, world)}
    return [Work(name, call) for name, call in (made | {"train": training}).items()]


def retrieval_works(world: Path) -> list[Work]:
    """Building an index in PostgreSQL, and traced inference with what is retrieved from it.

    `world` has to be a folder that any user may enter: root's PostgreSQL runs as one.
    """
    model = save(TINY["llama"], world / "llama-rag", {"max_position_embeddings": 512})
    how = ReadingSpec(model=str(save_bert(world / "bert")))
    texts = itertools.islice(itertools.permutations(WORDS.split(), 3), _N_DOCUMENTS)
    rows = [{"id": f"{i:04d}", "text": " ".join(words)} for i, words in enumerate(texts)]
    documents = write_csv(world / "documents.csv", rows)
    few = write_csv(world / "few.csv", rows[::30])
    assert quietly(build, (few,), out=str(world / "index"), how=how) == 0

    def index(out: Path) -> tuple[Any, ...]:
        return build_index, documents, out / "index", how

    asked = _inference(model, world, rag=str(world / "index"), top_k=2)
    return [Work("index build", index, indexed), Work("infer, traced, with retrieval", asked)]


def _inference(model: Path, world: Path, **more: Any) -> Callable[[Path], tuple[Any, ...]]:
    asked = write_csv(world / "asked.csv", [{"id": i, "prompt": p} for i, p in PROMPTS.items()])

    def infer(out: Path) -> tuple[Any, ...]:
        spec = InferenceSpec(asked, out / "out.csv", decoding=WARM, style="none", batch_size=1)
        changed = spec.changed(trace=out / "trace", trace_layers=(1, 3), **more)
        return run_inference, f"{model}@32", changed

    return infer


def build_index(documents: Path, out: Path, how: ReadingSpec) -> int:
    """`lensbench rag build`, which says nothing."""
    return quietly(build, (documents,), out=str(out), how=how)


def quietly(verb: Callable[..., int], *arguments: Any, **more: Any) -> int:
    """A verb that says nothing."""
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        return verb(*arguments, **more)


def indexed(out: Path) -> dict[str, bytes]:
    """Every document of an index with its vector, by its id; none of an index that is not yet."""
    if not (out / "index" / ".users").exists():
        return {}
    with connected(find_place(str(out / "index"))) as database:
        if not database.exists():
            return {}
        rows = database._run("SELECT * FROM documents ORDER BY id").fetchall()
    return {row[0]: repr(row[1:]).encode() for row in rows}
