"""A short training run on a tiny model, and what is the same in two equal ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from lensbench.progress import Progress
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.training.examples import encode
from lensbench.quantized.training.spec import TrainSpec
from tests.harness.files import manifest
from tests.harness.forks import Stop
from tests.harness.tiny import SENTENCES, Case

EXACT = ["step", "epoch", "loss_nats", "eval_loss_nats", "grad_norm", "learning_rate"]
ROWS = [
    {"id": f"p{i}", "instruction": f"{text[:9]} {i}?", "response": text[: 9 + 3 * i % 17]}
    for i, text in enumerate(SENTENCES * 3)
]


def spec_of(case: Case, data: Path, held_out: Path | None, out: Path, **changes: Any) -> TrainSpec:
    """14 pairs, 4 at a time: 4 steps an epoch, 8 in all, a checkpoint after every third."""
    spec = TrainSpec(
        str(case.folder),
        data,
        out,
        lora=Lora(blocks="1-2", dropout=0.0),
        bits=32,
        device="cpu",
        max_length=64,
        epochs=2,
        batch_size=4,
        peak_learning_rate=1e-2,
        warmup=0.2,
        eval_data=held_out,
        eval_share=0.0,
        checkpoint_every=3,
        n_examples=0,
    )
    return spec.changed(**changes)


def curve_of(folder: Path) -> pd.DataFrame:
    return pq.read_table(folder / "training.parquet").to_pandas()


def examples_of(case: Case, path: Path) -> list[Any]:
    from lensbench.quantized.data.pairs import read_pairs

    words = case.model.tokenizer
    return encode(words, [2], read_pairs(path).pairs, "alpaca", 64, "x").examples


def stopping_at(step: int) -> Callable[..., None]:
    def report(now: Progress) -> None:
        if now.stage == "training" and now.done == step and now.detail.startswith("loss"):
            raise Stop

    return report


def require_same(folder: Path, undisturbed: Path) -> None:
    pd.testing.assert_frame_equal(curve_of(folder)[EXACT], curve_of(undisturbed)[EXACT])
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    assert manifest(folder)["settings"] == manifest(undisturbed)["settings"]
