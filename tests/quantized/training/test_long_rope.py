"""Training under LongRoPE: each example is read by the frequencies of its own length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, set_seed
from transformers.trainer_pt_utils import get_length_grouped_indices

from lensbench.quantized.adapters.lora import adapt, match
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.training.examples import MASKED, batch_of, parted
from lensbench.quantized.training.train import train
from tests.harness.files import manifest
from tests.harness.tiny import TINY, Case, Tiny, save
from tests.harness.training import EXACT, curve_of, examples_of, spec_of

LORA = Lora("1-2", targets="q,k,v", dropout=0.0)


@pytest.fixture(scope="module")
def examples(llama: Case, data: Path) -> list[Any]:
    return examples_of(llama, data)


@pytest.fixture(scope="module")
def switch(examples: list[Any]) -> int:
    return int(np.median([len(one.token_ids) for one in examples]))


@pytest.fixture(scope="module")
def folder(switch: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.2, 1.3, 1.1]}
    rope |= {"long_factor": [4.0, 6.0, 7.0, 9.0], "original_max_position_embeddings": switch}
    fields = TINY["llama"].fields | {"rope_parameters": rope, "pad_token_id": 0}
    fields |= {"original_max_position_embeddings": switch}
    own = Tiny("phi3", fields, TINY["llama"].tokenizer)
    return save(own, tmp_path_factory.mktemp("model") / "longrope")


def nats(model: Any, examples: list[Any]) -> tuple[Any, int]:
    """Hugging Face's own loss of each example alone, times its labels, summed."""
    total, n_labels = torch.zeros(()), 0
    for example in examples:
        batch = batch_of([example], [0])
        n = int((batch["labels"] != MASKED).sum())
        total = total + n * model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
        n_labels += n
    return total, n_labels


def test_a_batch_is_parted_where_its_rows_are_read_otherwise(examples: list[Any]) -> None:
    batch = batch_of(examples, range(8))
    lengths = [len(one.token_ids) for one in examples[:8]]
    middle = sorted(lengths)[3]
    assert [*parted(batch, None)] == [batch] == parted(batch, max(lengths))
    short, long = parted(batch, middle)
    for part, expected in (
        (short, [i for i in range(8) if lengths[i] <= middle]),
        (long, [i for i in range(8) if lengths[i] > middle]),
    ):
        alone = batch_of(examples, expected)
        assert part.keys() == alone.keys()
        assert all(torch.equal(part[key], alone[key]) for key in part)


@pytest.mark.parametrize("cached", [False, True])
def test_every_step_is_that_of_examples_read_alone(
    cached: bool, folder: Path, llama: Case, examples: list[Any], data: Path, held_out: Path,
    tmp_path: Path, switch: int,
) -> None:  # fmt: skip
    spec = spec_of(llama, data, held_out, tmp_path / "adapter", lora=LORA, epochs=1)
    spec = spec.changed(model=str(folder), cache_prefix=cached, n_examples=3)
    assert train(spec).ok
    assert manifest(spec.out)["prefix"]["used"] is cached
    curve, evaluated = curve_of(spec.out), examples_of(llama, held_out)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        total, n_labels = nats(base.eval(), evaluated)
    assert curve.eval_loss_nats.dropna().iloc[0] == pytest.approx(float(total) / n_labels, rel=1e-5)
    set_seed(0)
    model = adapt(base, match(base, LORA), LORA, "x").train()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, weight_decay=0.0)
    lengths = [len(one.token_ids) for one in examples]
    order = get_length_grouped_indices(lengths, 4, generator=torch.Generator().manual_seed(0))
    batches = [order[start : start + 4] for start in range(0, len(order), 4)]
    mixed = [{lengths[i] > switch for i in batch} == {True, False} for batch in batches]
    assert any(mixed)
    for items, row in zip(batches, curve.dropna(subset=["loss_nats"]).itertuples(), strict=True):
        total, n_labels = nats(model, [examples[i] for i in items])
        loss = total / n_labels
        assert row.loss_nats == pytest.approx(loss.item(), rel=2e-5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.param_groups[0]["lr"] = row.learning_rate
        optimizer.step()
    assert len(curve[EXACT]) == len(batches) + 2
