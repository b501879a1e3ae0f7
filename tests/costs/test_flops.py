"""Operations that are counted beforehand, held to those that torch counts while they are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lensbench.attention.causal.ablation import mean_outputs
from lensbench.attention.causal.tables import Ablator, Asked
from lensbench.attention.conditions import Text
from lensbench.attention.cost import job_cost, means_cost
from lensbench.attention.patterns import Source
from lensbench.attention.record import Reader as HeadReader
from lensbench.attention.record import Reading as HeadReading
from lensbench.attention.record import one_job
from lensbench.attention.settings import AttentionSettings
from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.outline import outline
from lensbench.costs.shape import shape_of
from lensbench.lens.record import Reader, Reading, read, reading_cost
from lensbench.lens.settings import LensSettings
from lensbench.models.load import load_model
from lensbench.prompts.encode import TokenText, encode_all
from lensbench.prompts.prompt import as_prompts
from lensbench.records.engine import Job
from lensbench.residuals.capture import capture_positions
from tests.harness.tiny import PROMPTS, Case, Tiny, save

_MIXTURE = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
}


def counted(work: Callable[[], object]) -> int:
    """Operations that torch makes."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def test_the_operations_of_a_pass_are_those_that_torch_makes(family: Case) -> None:
    model, ids = family.model, family.token_ids
    last = [[len(own) - 1] for own in ids]
    made = counted(lambda: capture_positions(model, ids, last, [model.final_site]))
    n_columns = len({len(own) for own in ids})
    assert shape_of(model).texts(ids, n_columns).flops == made


def test_what_texts_share_at_their_beginning_is_counted_once(llama: Case) -> None:
    model = llama.model
    ids = [[7] * 20 + [5, 6, 8][:n] for n in (1, 2, 3)]
    assert model.shares_prefixes  # found out by passes of its own, beforehand
    last = [[len(own) - 1] for own in ids]
    made = counted(lambda: capture_positions(model, ids, last, [model.final_site]))
    cost = shape_of(model).texts(ids, 3)
    assert cost.flops == made
    assert (cost.n_tokens, cost.n_padded, cost.n_passes) == (66, 20 + 3 * 3, 2)


def test_of_experts_those_are_counted_that_a_token_is_sent_to(tmp_path: Path) -> None:
    folder = save(Tiny("mixtral", _MIXTURE, "bytes"), tmp_path)
    model = load_model(folder, device="cpu")
    # In grouped products, which are the default, torch does not count.
    model.bridge.original_model.set_experts_implementation("eager")
    ids = [[5, 6, 7, 8, 9, 10, 11, 12]]
    made = counted(lambda: capture_positions(model, ids, [[7]], [model.final_site]))
    assert shape_of(model).texts(ids, 1).flops == made


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("llama", "float32"), ("llama", "bfloat16"), ("gemma2", "bfloat16"), ("gpt2", "float32")],
)
def test_the_operations_of_a_reading_are_those_that_torch_makes(
    name: str, dtype: str, tiny_case: Callable[[str], Case]
) -> None:
    """Nearly: logits of the words that are looked up are made twice, and are not counted."""
    model = load_model(tiny_case(name).folder, dtype=dtype, device="cpu")
    encoded, _ = encode_all(model.encoder(), as_prompts(list(PROMPTS)))
    reader = Reader(model, TokenText(model.tokenizer), "")
    _ = model.shares_prefixes  # found out by passes of its own
    for lenses in (("final",), ("final", "next", "raw")):
        for positions in ("last", "earlier"):
            reading = Reading(encoded, LensSettings(lenses, positions=positions))
            cost = reading_cost(model, shape_of(model), reading)
            made = counted(lambda reading=reading: read(reader, Job(0, reading)))  # type: ignore[misc]
            looked_up = cost.rows["lens"] * 64 * 2 * model.d_model
            assert cost.flops <= made <= cost.flops + looked_up
            if positions == "last":  # where nothing follows, nothing is looked up but padding
                assert made == pytest.approx(cost.flops, rel=2e-3)


def test_an_outline_plans_as_the_loaded_model_does(family: Case) -> None:
    model, outlined = family.model, outline(ModelRef.of(family.folder), device="cpu")
    assert outlined.sites() == model.sites()
    assert outlined.dtype == model.dtype
    assert outlined.readout.soft_cap == model.readout.soft_cap
    for name in ("n_layers", "d_model", "d_vocab", "n_ctx", "n_heads", "rope_switch", "parallel"):
        assert getattr(outlined, name) == getattr(model, name), name
    assert shape_of(outlined) == shape_of(model)
    given = as_prompts(list(PROMPTS))
    ours, theirs = (encode_all(one.encoder(), given)[0] for one in (outlined, model))
    assert ours == theirs


def test_an_outline_takes_no_memory_for_weights(llama: Case) -> None:
    outlined = outline(ModelRef.of(llama.folder), device="cpu")
    assert all(one.device == torch.device("meta") for one in outlined.bridge.parameters())
    assert outlined.readout.W_U.untyped_storage().nbytes() <= 8


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_operations_of_reading_heads_are_those_that_torch_makes(
    name: str, tiny_case: Callable[[str], Case]
) -> None:
    model, ids = tiny_case(name).model, tiny_case(name).token_ids
    long = [own for own in ids if len(own) > 1]
    asked = [Asked(str(i), tuple(own)) for i, own in enumerate(long)]
    ablator = Ablator(model, asked, long, batch_tokens=64)
    _ = ablator.means
    reader = HeadReader(Source(model), AttentionSettings(batch_tokens=64, ablate=3), ablator)
    texts = tuple(Text(str(i), tuple(own)) for i, own in enumerate(long))
    for item in (HeadReading("text", texts), *ablator.jobs()):
        made = counted(lambda item=item: one_job(reader, Job(0, item)))  # type: ignore[misc]
        assert job_cost(reader, shape_of(model), item).flops == pytest.approx(made, rel=1e-6), item
    made = counted(lambda: mean_outputs(model, long, 64))
    assert means_cost(reader, shape_of(model)).flops == made
