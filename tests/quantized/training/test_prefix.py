"""The prefix cache: the same states, losses and gradients as without, in less memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lensbench.checkpoints.blocks import block_list
from lensbench.errors import ModelError
from lensbench.progress import Progress
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.training.examples import MASKED, batch_of
from lensbench.quantized.training.prefix import (
    States,
    obstacle,
    release,
    require_room,
    state_file,
    write_states,
)
from lensbench.quantized.training.train import train
from lensbench.quantized.training.trainer import only_at
from tests.harness.families import distinct_families
from tests.harness.files import manifest
from tests.harness.forks import Stop
from tests.harness.tiny import Case, random_model
from tests.harness.training import (
    EXACT,
    curve_of,
    examples_of,
    require_same,
    spec_of,
    stopping_at,
)

BATCH_TOKENS = 48  # so that examples of several lengths share a padded batch


def kept(case: Case, folder: Path, first: int, model: Any = None) -> tuple[States, Any]:
    """The states of `PROMPTS` in a file, and the model that made them."""
    model = model if model is not None else case.fresh_hf()
    ids = case.token_ids
    states = state_file(folder, ids, BATCH_TOKENS, model.config.hidden_size, torch.float32, {})
    write_states(states, model, block_list(model)[1][first], ids)
    return states, model


def without_dropout(case: Case) -> Any:
    """A fresh model whose config asks for no dropout (GPT-2's does)."""
    model = case.fresh_hf()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


# --- states -------------------------------------------------------------------------------------


@distinct_families
@pytest.mark.parametrize("first", [1, 2])
def test_the_states_are_hugging_faces_hidden_states(
    family: Case, first: int, tmp_path: Path
) -> None:
    states, model = kept(family, tmp_path, first)
    assert states.path.stat().st_size == states.n_bytes
    for item, ids in enumerate(family.token_ids):
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(states.batch([item]), hidden[first], rtol=1e-4, atol=1e-5)


def test_a_batch_is_padded_with_zeros(llama: Case, tmp_path: Path) -> None:
    states, _ = kept(llama, tmp_path, 1)
    lengths = [len(ids) for ids in llama.token_ids]
    batch = states.batch([1, 3])
    assert batch.shape == (2, max(lengths[1], lengths[3]), 32)
    assert torch.equal(batch[0, : lengths[1]], states.batch([1])[0])
    assert not batch[0, lengths[1] :].any()


def test_the_name_of_the_file_says_what_decided_it(llama: Case, tmp_path: Path) -> None:
    ids = llama.token_ids
    whole = state_file(tmp_path, ids, 48, 32, torch.float32, {"first": 1})
    others = [
        state_file(tmp_path, ids[:-1], 48, 32, torch.float32, {"first": 1}),
        state_file(tmp_path, ids, 49, 32, torch.float32, {"first": 1}),
        state_file(tmp_path, ids, 48, 32, torch.bfloat16, {"first": 1}),
        state_file(tmp_path, ids, 48, 32, torch.float32, {"first": 2}),
    ]
    assert len({states.path for states in (whole, *others)}) == 5
    assert state_file(tmp_path, ids, 48, 32, torch.float32, {"first": 1}).path == whole.path


def test_a_disk_that_is_too_small_is_refused_with_the_sum(tmp_path: Path) -> None:
    huge = States(tmp_path / "x", 10**15, 32, torch.float32, {}, [], [])
    with pytest.raises(ModelError, match=r"1,000,000,000,000,000 tokens x 32 x 4 bytes = .* free"):
        require_room(huge)


def test_an_interrupted_writer_leaves_no_file(llama: Case, tmp_path: Path) -> None:
    def stop(now: Progress) -> None:
        if now.done == 1:
            raise Stop

    model, ids = llama.fresh_hf(), llama.token_ids
    states = state_file(tmp_path, ids, BATCH_TOKENS, 32, torch.float32, {})
    with pytest.raises(Stop):
        write_states(states, model, block_list(model)[1][1], ids, stop)
    assert list(tmp_path.iterdir()) == []
    with torch.no_grad():  # and no hook on the model
        assert model(input_ids=torch.tensor([ids[0]])).logits.shape[1] == len(ids[0])


# --- the rest of the model ----------------------------------------------------------------------


@distinct_families
@pytest.mark.parametrize("first", [1, 2])
def test_the_model_without_its_lower_blocks_gives_the_same_logits(
    family: Case, first: int, tmp_path: Path
) -> None:
    states, model = kept(family, tmp_path, first)
    items = [0, 2, 3]
    lengths = [len(family.token_ids[item]) for item in items]
    ids = torch.zeros(3, max(lengths), dtype=torch.long)
    for row, item in enumerate(items):
        ids[row, : lengths[row]] = torch.tensor(family.token_ids[item])
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask).logits
        release(block_list(model)[1], first).states = states.batch(items)
        got = model(input_ids=ids, attention_mask=mask).logits
    for row, length in enumerate(lengths):
        torch.testing.assert_close(got[row, :length], wanted[row, :length], rtol=1e-4, atol=1e-4)


def test_the_lower_blocks_leave_memory(llama: Case) -> None:
    model = llama.fresh_hf()
    _, blocks = block_list(model)
    lower = sum(p.numel() for block in blocks[:2] for p in block.parameters())
    whole = sum(p.numel() for p in model.parameters())
    gone = [weakref.ref(p) for block in blocks[:2] for p in block.parameters()]
    release(blocks, 2)
    gc.collect()
    assert sum(p.numel() for p in model.parameters()) == whole - lower
    assert {reference() for reference in gone} == {None}
    assert len(blocks) == 3


def test_states_of_another_batch_are_refused(llama: Case, tmp_path: Path) -> None:
    states, model = kept(llama, tmp_path, 1)
    release(block_list(model)[1], 1).states = states.batch([0])
    with pytest.raises(ModelError, match="are not of this batch"):
        model(input_ids=torch.tensor([llama.token_ids[2]]))


def test_the_head_is_computed_where_labels_are_and_nowhere_else(family: Case) -> None:
    model, rows = family.hf, []
    ids = torch.tensor([family.token_ids[2]])
    wanted = torch.zeros(ids.shape, dtype=torch.bool)
    wanted[0, [1, 4]] = True
    head = model.get_output_embeddings()
    counter = head.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape))
    with torch.no_grad():
        with only_at(head, wanted):
            some = model(input_ids=ids).logits
        counter.remove()
        whole = model(input_ids=ids).logits
    assert rows == [(1, 2, whole.shape[-1] and model.config.hidden_size)]
    torch.testing.assert_close(some[0], whole[0, [1, 4]], rtol=1e-5, atol=1e-5)


# --- where it cannot be used --------------------------------------------------------------------


def backbone_of(model: Any) -> tuple[nn.ModuleList, nn.Module]:
    return block_list(model)[1], model.base_model


def test_dropout_below_forbids_it_and_is_named(gpt2: Case) -> None:
    reason = obstacle(*backbone_of(gpt2.fresh_hf()), 2)
    assert reason == "drop has dropout 0.1, so what it puts out changes in every epoch"
    assert obstacle(*backbone_of(without_dropout(gpt2)), 2) is None


def test_dropout_that_is_handed_to_a_function_counts_too(llama: Case) -> None:
    model = random_model(llama.row, {"attention_dropout": 0.25})
    blocks, backbone = backbone_of(model)
    assert obstacle(blocks, backbone, 1) == (
        "layers.0.self_attn has attention_dropout 0.25, so what it puts out changes in every epoch"
    )
    model.model.layers[0].self_attn.attention_dropout = 0.0
    assert obstacle(blocks, backbone, 1) is None  # above, it may stay


def test_what_is_called_an_obstacle_is_one_and_nothing_else(family: Case) -> None:
    """In training mode, twice the same input gives twice the same states, or there is a reason."""
    model = family.fresh_hf().train()
    caught: list[torch.Tensor] = []
    blocks, backbone = backbone_of(model)
    blocks[2].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    ids = torch.tensor([family.token_ids[2]])
    with torch.no_grad():
        model(input_ids=ids)
        model(input_ids=ids)
    assert torch.equal(*caught) is (obstacle(blocks, backbone, 2) is None)


def test_a_trained_first_block_forbids_it(llama: Case) -> None:
    reason = obstacle(*backbone_of(llama.fresh_hf()), 0)
    assert reason == "block 0 is trained, and below it there is only the embedding"


def test_an_obstacle_is_said_and_recorded_and_training_goes_on(
    gpt2: Case, data: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    spec = spec_of(gpt2, data, None, tmp_path / "a", cache_prefix=True, max_steps=1)
    train(spec, notify=said.append)
    assert "no prefix cache: drop has dropout 0.1" in " ".join(said)
    assert manifest(spec.out)["prefix"] == {
        "used": False,
        "reason": "drop has dropout 0.1, so what it puts out changes in every epoch",
    }


# --- training -----------------------------------------------------------------------------------


def both(spec: Any, tmp_path: Path) -> list[Path]:
    """The same run with and without the cache."""
    folders = []
    for cached in (False, True):
        out = tmp_path / ("cached" if cached else "plain")
        train(spec.changed(out=out, cache_prefix=cached))
        assert manifest(out)["prefix"]["used"] is cached
        folders.append(out)
    return folders


def require_close(folders: Sequence[Path], bound: float) -> None:
    plain, cached = (curve_of(folder) for folder in folders)
    assert plain.step.equals(cached.step)
    for column in ("loss_nats", "eval_loss_nats"):
        assert (plain[column] - cached[column]).abs().max() < bound
    assert (plain.grad_norm / cached.grad_norm - 1).abs().max() < 1e-3


@pytest.mark.parametrize(
    "name", ["gemma2", *(pytest.param(n, marks=pytest.mark.slow) for n in ("llama", "gpt_neox"))]
)
def test_losses_are_those_of_a_run_without_it(
    name: str,
    tiny_case: Callable[[str], Case],
    data: Path,
    held_out: Path,
    tmp_path: Path,
) -> None:
    """With dropout in the adapter: it draws the same chance, since nothing else draws any."""
    case = tiny_case(name)
    lora = Lora("1-2", dropout=0.1)
    require_close(both(spec_of(case, data, held_out, tmp_path, lora=lora), tmp_path), 1e-4)


@pytest.mark.parametrize("bits", [8, pytest.param(4, marks=pytest.mark.slow)])
def test_the_same_in_fewer_bits(
    bits: Any, llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    spec = spec_of(llama, data, held_out, tmp_path, bits=bits)
    require_close(both(spec, tmp_path), 1e-3)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_states_that_are_there(
    llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    spec = spec_of(llama, data, held_out, tmp_path / "whole", cache_prefix=True)
    train(spec)
    cut = spec.changed(out=tmp_path / "cut")
    with pytest.raises(Stop):
        train(cut, stopping_at(5))
    stages: list[str] = []
    train(cut, lambda now: stages.append(now.stage))
    assert "prefix cache" not in stages  # computed once
    require_same(cut.out, spec.out)
    assert not (cut.out / "prefix").exists()


def test_the_cached_loss_is_hugging_faces(
    llama: Case, data: Path, held_out: Path, tmp_path: Path
) -> None:
    """Against Hugging Face's whole model, one example at a time."""
    spec = spec_of(llama, data, held_out, tmp_path / "a", cache_prefix=True, max_steps=1)
    train(spec)
    nats, count = 0.0, 0
    for example in examples_of(llama, held_out):
        batch = batch_of([example], [0])
        n_labels = int((batch["labels"] != MASKED).sum())
        with torch.no_grad():
            loss = llama.hf(input_ids=batch["input_ids"], labels=batch["labels"]).loss
        nats, count = nats + float(loss) * n_labels, count + n_labels
    assert curve_of(spec.out)[EXACT].eval_loss_nats.iloc[0] == pytest.approx(nats / count, rel=1e-5)
