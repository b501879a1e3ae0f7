"""What a training is counted to take, held to the operations that torch counts while it learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench.pico.cost import outlined, training_cost
from lensbench.pico.train import train_pico
from tests.harness.files import table
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
