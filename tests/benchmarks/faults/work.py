"""The kinds of run that are disturbed, on a tiny model: each a call into a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.training.train import train
from lensbench.studies.cache import run_cache
from lensbench.studies.lens import run
from lensbench.studies.specs.cache import CacheSpec
from lensbench.studies.specs.lens import RunSpec
from tests.harness.facts import facts_rows
from tests.harness.files import UNEQUAL, contents, write_csv, write_jsonl
from tests.harness.inference import PROMPTS, WARM
from tests.harness.tiny import TINY, Case, save
from tests.harness.training import ROWS, spec_of

# What equal runs may differ in besides: times, and a trainer's log of them.
_APART = (*UNEQUAL, "training.parquet", "README.md", "checkpoints")


@dataclass(frozen=True)
class Work:
    """A kind of run: `call` gives the function and its arguments for a run into a folder."""

    name: str
    call: Callable[[Path], tuple[Any, ...]]

    def left(self, out: Path) -> dict[str, bytes]:
        """Every file that equal runs have alike, by its path."""
        return contents(out, _APART)


def works(world: Path) -> list[Work]:
    """Lens run, cache, traced inference and training; `world` takes the model and the inputs."""
    model = save(TINY["llama"], world / "llama")
    facts = write_csv(world / "facts.csv", facts_rows())
    asked = write_csv(world / "asked.csv", [{"id": i, "prompt": p} for i, p in PROMPTS.items()])
    data = write_jsonl(world / "data.jsonl", ROWS[:14])
    case = Case("llama", TINY["llama"], model)

    def lens(out: Path) -> tuple[Any, ...]:
        return run, RunSpec(models=str(model), prompts=str(facts), limit=None, batch_tokens=1), out

    def cache(out: Path) -> tuple[Any, ...]:
        spec = CacheSpec(str(model), str(facts), batch_tokens=1, positions="all")
        return run_cache, spec, out / "cache"

    def infer(out: Path) -> tuple[Any, ...]:
        spec = InferenceSpec(asked, out / "out.csv", decoding=WARM, style="none", batch_size=1)
        return run_inference, f"{model}@32", spec.changed(trace=out / "trace", trace_layers=(1, 3))

    def training(out: Path) -> tuple[Any, ...]:
        spec = spec_of(case, data, None, out / "adapter", lora=Lora("1-2", dropout=0.1))
        return train, spec

    made = {"lens run": lens, "cache": cache, "infer, traced": infer, "train": training}
    return [Work(name, call) for name, call in made.items()]
