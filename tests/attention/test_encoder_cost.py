"""What reading an encoder's heads takes, held to the operations that torch counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

import lensbench as lb
from lensbench.attention.conditions import Text
from lensbench.attention.encoders.cost import encoder_cost
from lensbench.attention.encoders.record import EncoderReader, encoder_job
from lensbench.attention.encoders.source import EncoderSource
from lensbench.attention.record import Reading
from lensbench.attention.settings import EncoderSettings
from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.encoders import encoder_outlined
from lensbench.models.text_encoder import load_encoder
from lensbench.records.engine import Job
from lensbench.studies.attention import run
from lensbench.studies.specs.attention import AttentionSpec
from tests.harness.encoders import save_encoder
from tests.harness.files import table, write_csv

TEXTS = ("gold a river silver music", "silver gold", "music river gold a a gold")


@pytest.mark.parametrize(
    "kind", ["bert", *(pytest.param(k, marks=pytest.mark.slow) for k in ("distilbert", "electra"))]
)
@pytest.mark.parametrize("weightings", [("plain",), ("plain", "moved")])
def test_the_operations_of_a_batch_are_those_that_torch_makes(
    kind: str, weightings: tuple[str, ...], tmp_path: Path
) -> None:
    folder = save_encoder(kind, tmp_path / "tiny")
    model, known = load_encoder(folder, "cpu"), encoder_outlined(ModelRef.of(folder), None, "cpu")
    settings = EncoderSettings(("text",), weightings, (), 64, 0)
    reader = EncoderReader(EncoderSource(model), settings)
    planned = EncoderReader(EncoderSource(known.model), settings)
    ids = [model.tokenizer(text).input_ids for text in TEXTS]
    item = Reading("text", tuple(Text(str(i), tuple(own)) for i, own in enumerate(ids)))
    if "moved" in weightings:
        _ = reader.source.factors  # found once
    with FlopCounterMode(display=False) as counter:
        part = encoder_job(reader, Job(0, item))
    cost = encoder_cost(planned, known.shape, item)
    pooled = 2 * len(ids) * model.hf.config.hidden_size**2  # behind the blocks, where there is one
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=1e-6, abs=pooled)
    assert cost.rows["encoder_heads"] == len(part.tables["encoder_heads"])
    assert cost.n_tokens == sum(map(len, ids))


def test_a_record_has_the_rows_that_were_planned(tmp_path: Path) -> None:
    folder = save_encoder("bert", tmp_path / "tiny")
    rows = [{"id": f"p{n}", "prompt": text} for n, text in enumerate(TEXTS)]
    prompts = write_csv(tmp_path / "mine.csv", rows)
    spec = AttentionSpec(models=(str(folder),), prompts=str(prompts), device="cpu")
    (planned,) = lb.plan(spec, tmp_path / "out").records
    assert planned.left is not None and not planned.obstacles
    (record,) = run(spec, tmp_path / "out").folders
    assert planned.left.rows["encoder_heads"] == len(table(record, "encoder_heads"))
    assert planned.n_prompts == len(table(record, "prompts"))
    assert lb.plan(spec, tmp_path / "out").records[0].finished
