"""A run over many models in a process of its own, and what it holds at the start of each turn.

`python -m tests.harness.many_models FOLDER MODEL...` is that process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.harness.forks import ONE_THREAD, ROOT

if TYPE_CHECKING:
    from tests.harness.tiny import Tiny

MODEL = {  # 13 million parameters: 53 MB in float32, which small files are drowned by
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
BYTES = 53 * 10**6
_TURN = "hashing the weights of "


@dataclass
class Profile:
    """A run: resident bytes at the start of each turn and after the last, and its seconds."""

    resident: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)


def write_models(folder: Path, n: int) -> list[Path]:
    """So many folders of one random model."""
    from tests.harness.tiny import TINY, save

    first = save(TINY["llama"], folder / "model-00", MODEL)
    others = [folder / f"model-{number:02d}" for number in range(1, n)]
    return [first, *(Path(shutil.copytree(first, other)) for other in others)]


def write_zoo(folder: Path, n: int = 20) -> list[Path]:
    """So many folders of random models of every family in turn, 20 to 50 MB each in shards."""
    from tests.harness.tiny import TINY, random_model, tokenizer

    names, found = list(TINY), list[Path]()
    for number in range(n):
        row = TINY[names[number % len(names)]]
        found.append(folder / f"model-{number:02d}-{names[number % len(names)]}")
        model = random_model(row, _wide(row, 512 if number < len(names) else 384))
        model.save_pretrained(found[-1], max_shard_size="20MB")
        tokenizer(row.tokenizer).save_pretrained(found[-1])
    return found


def _wide(row: Tiny, width: int) -> dict[str, Any]:
    """A family's fields with four blocks of such a width."""
    if "n_embd" in row.fields:
        return {"n_embd": width, "n_layer": 4, "n_head": 8}
    own = {"hidden_size": width, "intermediate_size": 11 * width // 4, "num_hidden_layers": 4}
    own |= {"num_attention_heads": 8}
    each = {"num_key_value_heads": 4, "head_dim": width // 8, "query_pre_attn_scalar": width // 8}
    layers = {"layer_types": ["sliding_attention", "full_attention"] * 2}
    return own | {key: value for key, value in (each | layers).items() if key in row.fields}


def profile(models: Sequence[Path | str], prompts: Path, out: Path, ahead: bool = True) -> Profile:
    """A run over the models, whose files the system has let go of; `ahead`: the next is read."""
    for model in models:
        forget(Path(model))
    options = [str(prompts), str(out), str(int(ahead)), *map(str, models)]
    command = [sys.executable, "-m", "tests.harness.many_models", *options]
    done = subprocess.run(command, env=ONE_THREAD, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Profile(**json.loads(done.stdout.splitlines()[-1]))


def forget(folder: Path) -> None:
    """Have the system let go of what it keeps of a folder's files, which it may read again."""
    for path in folder.glob("*.safetensors"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _profiled(prompts: Path, out: Path, ahead: bool, models: Sequence[str]) -> Profile:
    import psutil

    from lensbench.progress import Progress
    from lensbench.studies.lens import run
    from lensbench.studies.specs.lens import RunSpec

    found, process = Profile(), psutil.Process()

    def watch(progress: Progress) -> None:
        if progress.stage.startswith(_TURN):
            name = Path(progress.stage.removeprefix(_TURN)).name
            found.resident[name] = process.memory_info().rss

    few = {"prompts": str(prompts), "limit": 3, "lenses": ("final",)}
    spec = RunSpec(models=tuple(models), device="cpu", **few)
    started = time.perf_counter()
    with _reading(ahead):
        outcome = run(spec, out, watch)
    found.seconds = time.perf_counter() - started
    found.resident["end"] = process.memory_info().rss
    found.failed = {Path(name).name: str(error) for name, error in outcome.failed.items()}
    return found


@contextmanager
def _reading(ahead: bool) -> Iterator[None]:
    """Without it, each model's files are read in its own turn."""
    from lensbench.studies.stages import turns

    own: Any = turns.fits_beside
    if not ahead:
        turns.fits_beside = lambda folder, present: False
    try:
        yield
    finally:
        turns.fits_beside = own


if __name__ == "__main__":
    prompts, out, ahead, *models = sys.argv[1:]
    sys.stdout.write(json.dumps(asdict(_profiled(Path(prompts), Path(out), ahead == "1", models))))
