"""What a training is counted to take, held to the operations that torch counts while it learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench.costs.disk import record_bytes
from lensbench.pico.cost import outlined, training_cost
from lensbench.pico.train import train_pico
from lensbench.records.manifest import as_planned
from tests.harness.files import manifest, table
from tests.harness.flops import counted
from tests.harness.pico import pico_spec


def test_the_operations_of_a_training_are_those_that_torch_makes(
    texts: Path, tmp_path: Path
) -> None:
    spec = pico_spec(texts, tmp_path / "run", steps=5)
    made = counted(lambda: train_pico(spec))
    rows = table(spec.out, "training")
    cost = training_cost(spec, outlined(spec).shape, range(spec.plan.steps + 1))
    # What came in at the first block has no gradient by rotary angles, which are products too.
    assert cost.flops == pytest.approx(made, rel=0.02)
    assert cost.rows["training"] == len(rows)


def test_models_that_are_kept_are_on_the_disk_that_is_planned_and_that_was_taken(
    texts: Path, tmp_path: Path
) -> None:
    """They stay when the training is over: nearly all bytes of a run's folder."""
    spec = pico_spec(texts, tmp_path / "run", width=64)
    cost = training_cost(spec, outlined(spec).shape, range(spec.plan.steps + 1))
    with as_planned({spec.out.resolve(): {"wall_s": [1, 2], "n_tokens": 0}}):
        train_pico(spec)
    files = [path for path in spec.out.rglob("*") if path.is_file()]
    kept = sum(path.stat().st_size for path in files if path.parent.name.startswith("step-"))
    whole = sum(path.stat().st_size for path in files if path.name != "manifest.json")
    assert cost.file_bytes == pytest.approx(kept, rel=0.05)
    assert manifest(spec.out)["took"]["disk_bytes"] == whole
    assert record_bytes(cost, ["training", "problems"])[0] == pytest.approx(whole, rel=0.05)
