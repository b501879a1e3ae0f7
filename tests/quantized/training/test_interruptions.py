"""Training interrupted at any moment goes on with the same curve to the same adapter."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lensbench.errors import ModelError
from lensbench.progress import Progress
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.training.checkpoints import drop_torn
from lensbench.quantized.training.train import train
from tests.harness.files import manifest
from tests.harness.forks import Forks, Stop
from tests.harness.tiny import Case
from tests.harness.training import (
    curve_of,
    require_same,
    spec_of,
    stopping_at,
)

SLOW = pytest.mark.slow


@pytest.mark.parametrize("step", [2, *(pytest.param(n, marks=SLOW) for n in (4, 5, 8))])
def test_a_run_that_stopped_goes_on_with_the_same_curve(
    step: int, undisturbed: Path, llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    spec = spec_of(llama, data, held_out, tmp_path / "a", lora=Lora("1-2", dropout=0.1))
    with pytest.raises(Stop):
        train(spec, stopping_at(step))
    assert train(spec).ok
    require_same(spec.out, undisturbed)
    assert manifest(spec.out)["resumed_from_step"] == ((step - 1) // 3 * 3 or None)


def test_a_torn_checkpoint_is_not_gone_on_from(
    undisturbed: Path, llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    spec = spec_of(llama, data, held_out, tmp_path / "a", lora=Lora("1-2", dropout=0.1))
    with pytest.raises(Stop):
        train(spec, stopping_at(7))
    torn = spec.out / "checkpoints" / "checkpoint-6"
    (torn / "whole").unlink()  # as if the process had died while it wrote
    (torn / "optimizer.pt").write_bytes(b"half")
    train(spec)
    require_same(spec.out, undisturbed)
    assert manifest(spec.out)["resumed_from_step"] == 3


def test_torn_checkpoints_are_cleared_away_since_they_would_push_out_whole_ones(
    tmp_path: Path,
) -> None:
    for number, name in ((3, "whole"), (6, "optimizer.pt")):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / name).touch()
    drop_torn(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_a_run_whose_record_was_not_finished_only_finishes_it(
    undisturbed: Path, llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    """Also where the last step is in the middle of an epoch."""
    spec = spec_of(llama, data, held_out, tmp_path / "a", max_steps=6)

    def before_examples(now: Progress) -> None:
        if now.stage == "answering examples":
            raise Stop

    with pytest.raises(Stop):
        train(spec.changed(n_examples=1), before_examples)
    steps: list[str] = []
    train(spec, lambda now: steps.append(now.stage))
    assert "training" not in steps
    assert curve_of(spec.out).step.max() == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "sign",
    [
        "checkpoint-3/optimizer.pt",
        pytest.param("checkpoint-3/whole", marks=SLOW),
        pytest.param("checkpoint-6/adapter_config.json", marks=SLOW),
    ],
)
def test_a_run_that_was_killed_goes_on_with_the_same_curve(
    sign: str,
    forks: Forks,
    undisturbed: Path,
    llama: Case,
    data: Path,
    held_out: Path,
    tmp_path: Path,
) -> None:
    spec = spec_of(llama, data, held_out, tmp_path / "a", lora=Lora("1-2", dropout=0.1))
    found = (spec.out / "checkpoints" / sign).exists
    assert forks.run(train, spec, kill=signal.SIGKILL, when=found).status == -signal.SIGKILL
    assert manifest(spec.out)["status"] == "running"
    train(spec)
    require_same(spec.out, undisturbed)


def test_a_full_disk_keeps_the_checkpoint_before(
    forks: Forks, undisturbed: Path, llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    """No file may grow beyond 9 kB: the settings can be written, but no checkpoint."""
    spec = spec_of(llama, data, held_out, tmp_path / "a", lora=Lora("1-2", dropout=0.1))
    with pytest.raises(Stop):
        train(spec, stopping_at(5))
    status, said, _ = forks.run(train, spec, largest_file=9_000)
    assert status == 2
    assert said.startswith("RecordsError")
    assert "checkpoint-6 cannot be written" in said
    assert "free some space and run the same command again" in said
    train(spec)
    require_same(spec.out, undisturbed)
    assert manifest(spec.out)["resumed_from_step"] == 3


@pytest.mark.parametrize(("peak", "what"), [(1e30, "The loss is"), (1e12, "The gradient norm is")])
def test_a_loss_that_becomes_nan_stops_and_keeps_the_last_good_checkpoint(
    peak: float, what: str, llama: Case, data: Path, tmp_path: Path
) -> None:
    spec = spec_of(llama, data, None, tmp_path / "a", peak_learning_rate=peak, warmup=0.0)
    with pytest.raises(ModelError) as caught:
        train(spec.changed(checkpoint_every=1))
    said = str(caught.value)
    assert said.startswith(f"{what} nan in step 2, so")
    assert "training stopped; the last good checkpoint is" in said
    assert "smaller --peak-learning-rate" in said
    kept = sorted((spec.out / "checkpoints").glob("checkpoint-*/whole"))
    weights = load_file(kept[-1].parent / "adapter_model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    assert manifest(spec.out)["status"] == "running"
    assert not (spec.out / "adapter_model.safetensors").exists()


def test_a_step_that_does_not_fit_into_memory_is_said_with_what_takes_less(
    llama: Case, data: Path, tmp_path: Path
) -> None:
    """The allocator itself refuses 4 PiB that are asked for in the middle of training."""

    def greedy(now: Progress) -> None:
        if now.stage == "training" and now.done == 2:
            torch.empty(2**50)

    with pytest.raises(ModelError, match=r"too little memory .* smaller --batch-size"):
        train(spec_of(llama, data, None, tmp_path / "a"), greedy)


def test_a_second_process_is_kept_out(
    forks: Forks, llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    from lensbench.records.store import RecordStore

    spec = spec_of(llama, data, held_out, tmp_path / "a")
    with RecordStore(spec.out, "x", "training").locked():
        status, said, _ = forks.run(train, spec)
    assert status == 2
    assert "another process is writing this record" in said
