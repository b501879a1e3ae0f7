"""A run that is interrupted at any moment goes on to the same curve and the same models."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lensbench.errors import ModelError, RecordsError
from lensbench.pico.train import train_pico
from lensbench.progress import Progress
from tests.harness.files import manifest
from tests.harness.forks import Forks, Stop
from tests.harness.pico import pico_spec, require_same, stop_at

SLOW = pytest.mark.slow


@pytest.mark.parametrize("step", [pytest.param(2, marks=SLOW), 7, pytest.param(12, marks=SLOW)])
def test_a_run_that_stopped_goes_on_with_the_same_curve(
    step: int, undisturbed: Path, texts: Path, tmp_path: Path
) -> None:
    spec = pico_spec(texts, tmp_path / "a")
    with pytest.raises(Stop):
        train_pico(spec, stop_at(step))
    assert train_pico(spec).ok
    require_same(spec.out, undisturbed)
    assert manifest(spec.out)["resumed_from_step"] == ((step - 1) // 5 * 5 or None)


@SLOW
@pytest.mark.parametrize(
    "sign",
    [
        "checkpoints/checkpoint-5/optimizer.pt",
        "checkpoints/checkpoint-5/whole",
        ".step-000008.part/model.safetensors",
        "step-000011",
    ],
)
def test_a_run_that_was_killed_goes_on_with_the_same_curve(
    sign: str, forks: Forks, undisturbed: Path, texts: Path, tmp_path: Path
) -> None:
    spec = pico_spec(texts, tmp_path / "a")
    found = (spec.out / sign).exists
    ended = forks.run(train_pico, spec, kill=signal.SIGKILL, when=found)
    assert ended.status in (-signal.SIGKILL, 0)  # it may have been faster
    train_pico(spec)
    require_same(spec.out, undisturbed)


@SLOW
def test_an_interrupt_keeps_the_last_good_checkpoint(
    forks: Forks, undisturbed: Path, texts: Path, tmp_path: Path
) -> None:
    spec = pico_spec(texts, tmp_path / "a")
    found = (spec.out / "checkpoints/checkpoint-5/whole").exists
    ended = forks.run(train_pico, spec, kill=signal.SIGINT, when=found)
    assert ended.status in (130, 0)
    train_pico(spec)
    require_same(spec.out, undisturbed)


def test_a_full_disk_keeps_the_checkpoint_before(
    forks: Forks, undisturbed: Path, texts: Path, tmp_path: Path
) -> None:
    """No file may grow beyond 60 kB: no model can be written."""
    spec = pico_spec(texts, tmp_path / "a")
    with pytest.raises(Stop):
        train_pico(spec, stop_at(7))
    status, said, _ = forks.run(train_pico, spec, largest_file=60_000)
    assert status == 2
    assert said.startswith("RecordsError")
    assert "step-000006 cannot be written" in said
    assert "free some space and run the same command again" in said
    train_pico(spec)
    require_same(spec.out, undisturbed)


def test_a_disk_that_is_too_small_is_said_before_anything_is_trained(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    free = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(RecordsError, match="are needed for 8 models"):
        train_pico(pico_spec(texts, tmp_path / "a"))


def test_a_loss_that_becomes_nan_stops_and_keeps_the_last_good_checkpoint(
    texts: Path, tmp_path: Path
) -> None:
    spec = pico_spec(texts, tmp_path / "a", peak_learning_rate=1e30, warmup=0.0, checkpoint_every=1)
    with pytest.raises(ModelError) as caught:
        train_pico(spec)
    said = str(caught.value)
    assert said.startswith("The loss is nan in step 2, so")
    assert "training stopped; the last good checkpoint is" in said
    kept = sorted(spec.out.glob("checkpoints/checkpoint-*/whole"))
    weights = load_file(kept[-1].parent / "model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    assert manifest(spec.out)["status"] == "running"


def test_a_step_that_does_not_fit_into_memory_is_said_with_what_takes_less(
    texts: Path, tmp_path: Path
) -> None:
    """The allocator itself refuses 4 PiB that are asked for in the middle of training."""

    def greedy(now: Progress) -> None:
        if now.stage == "training" and now.done == 2:
            torch.empty(2**50)

    with pytest.raises(ModelError, match=r"too little memory .* smaller --batch-size"):
        train_pico(pico_spec(texts, tmp_path / "a"), greedy)
