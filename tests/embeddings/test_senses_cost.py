"""What reading senses takes, held to the operations that torch counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.encoders import encoder_outlined
from lensbench.costs.outlined import outlined
from lensbench.embeddings.senses.cost import senses
from lensbench.embeddings.senses.measured import Reading, read_senses
from lensbench.embeddings.senses.sentences import load_senses
from lensbench.embeddings.senses.states import placed
from lensbench.models.readable import load_readable
from lensbench.records.engine import Job
from tests.harness.encoders import save_encoder
from tests.harness.tiny import Case


@pytest.mark.parametrize("kind", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
def test_the_operations_of_a_condition_are_those_that_torch_makes(
    kind: str, llama: Case, tmp_path: Path
) -> None:
    folder = save_encoder("bert", tmp_path / "tiny") if kind == "bert" else llama.folder
    how: Any = encoder_outlined if kind == "bert" else outlined
    known, model = how(ModelRef.of(folder), None, "cpu"), load_readable(str(folder), device="cpu")
    given = load_senses("senses").sentences
    readings = []
    for own in (model, known.model):
        items, _ = placed(own, given, "senses")
        readings.append(Reading(own, given, items[:12], 96))
    real, planned = readings
    assert planned.items == real.items
    if kind == "llama":
        _ = model.shares_prefixes  # found out by passes of its own
    with FlopCounterMode(display=False) as counter:
        part = read_senses(real, Job(0, "trained"))
    jobs = senses(planned, known.shape)
    cost = jobs.cost("trained")
    # Behind an encoder's blocks a layer sees one token of each text.
    pooled = 2 * len(real.items) * known.shape.d_model**2
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=1e-6, abs=pooled)
    assert {name: len(rows) for name, rows in part.tables.items()} == cost.rows
    assert jobs.untimed
