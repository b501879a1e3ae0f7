"""A small model trained in a moment, and what is the same in two equal runs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from lensbench.pico.spec import PicoSpec, Pretraining, SeedsSpec
from lensbench.progress import Progress
from tests.harness.files import manifest
from tests.harness.forks import Stop

EXACT = ["step", "epoch", "loss_nats", "eval_loss_nats", "grad_norm", "learning_rate"]
_WORDS = ("river", "city", "list", "value", "the", "a", "of", "to", "in", "returns", "flows", "was")


def write_texts(folder: Path, n_files: int = 300, n_words: int = 40) -> Path:
    """A folder of texts without sense."""
    chance = random.Random(0)
    folder.mkdir(parents=True)
    for number in range(n_files):
        text = " ".join(chance.choices(_WORDS, k=n_words))
        (folder / f"{number:03d}.txt").write_text(f"Text {number}. {text}.\n", encoding="utf-8")
    return folder


def pico_spec(corpus: Path, out: Path, **changes: Any) -> PicoSpec:
    """12 steps of a model of two narrow blocks with dropout; a checkpoint after every fifth."""
    spec = PicoSpec(
        out=out,
        corpus=str(corpus),
        width=32,
        layers=2,
        heads=2,
        context=36,
        vocabulary=300,
        steps=12,
        batch_size=4,
        peak_learning_rate=1e-2,
        dropout=0.1,
        repeated_share=0.0,
        validation_tokens=128,
        checkpoint_every=5,
        device="cpu",
    )
    return spec.changed(**changes)


def seeds_spec(corpus: Path, out: Path, **changes: Any) -> SeedsSpec:
    """The same, of one seed or several."""
    return SeedsSpec(out=out, **pico_spec(corpus, out).shared(Pretraining)).changed(**changes)


def curve_of(folder: Path) -> pd.DataFrame:
    return pq.read_table(folder / "training.parquet").to_pandas()


def stop_at(step: int) -> Any:
    """A progress callback that raises out of a step, once its loss is known."""

    def report(now: Progress) -> None:
        if now.stage == "training" and now.done == step and now.detail.startswith("loss"):
            raise Stop

    return report


def require_same(folder: Path, undisturbed: Path) -> None:
    """The same curve and the same bytes of every model that is kept."""
    pd.testing.assert_frame_equal(curve_of(folder)[EXACT], curve_of(undisturbed)[EXACT])
    assert models_of(folder) == models_of(undisturbed)
    assert manifest(folder)["settings"] == manifest(undisturbed)["settings"]
    assert manifest(folder)["kept"] == manifest(undisturbed)["kept"]


def models_of(folder: Path) -> dict[str, bytes]:
    """Every file of the models that are kept."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.glob("step-*/*"))
    }
