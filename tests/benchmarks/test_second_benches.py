"""The second path's benches: every way does its job, and the measures are what they claim."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from lensbench.checkpoints.open import open_tokenizer
from lensbench.prompts.prompt import choose
from lensbench.prompts.sets import load_prompts
from lensbench.quantized.loading.load import load_quantized
from lensbench.quantized.precision import sizes_of
from tests.benchmarks import inference, memory, precision
from tests.benchmarks.precision import batch_effect_bits, kl_bits, logprobs
from tests.harness.tiny import TINY, Case

IDS = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [14, 15], [16], [17, 18], [19, 20], [21, 22, 23]]


def test_kl_by_hand() -> None:
    even, sure = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    expected = 0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25)
    assert float(kl_bits(even, sure)) == pytest.approx(expected)
    assert float(kl_bits(even, even)) == 0


def test_logprobs_are_those_of_hugging_face(llama: Case) -> None:
    found = logprobs(load_quantized(llama.folder, 32, device="cpu").hf, IDS)
    with torch.inference_mode():
        expected = [llama.hf(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in IDS]
    # The weights lie elsewhere in memory, so sums of float32 may be taken in another order.
    torch.testing.assert_close(found, torch.stack(expected))


def test_batches_do_not_matter_in_float32(llama: Case) -> None:
    model = load_quantized(llama.folder, 32, device="cpu").hf
    batched = precision._batched(model, IDS, [[0, 5, 2, 7], [4, 1, 6, 3]])
    torch.testing.assert_close(batched, logprobs(model, IDS), rtol=1e-4, atol=1e-4)
    assert float(batch_effect_bits(model, IDS, rows=2).max()) < 1e-6


def test_a_model_that_mixes_rows_has_a_batch_effect(llama: Case) -> None:
    """The measure sees what it is for: neighbours that leak into a prompt's distribution."""
    model = load_quantized(llama.folder, 32, device="cpu").hf
    embed = model.get_input_embeddings()
    hook = embed.register_forward_hook(lambda *call: call[-1] + call[-1].mean(0, keepdim=True))
    assert float(batch_effect_bits(model, IDS, rows=2).min()) > 0.001
    hook.remove()


def test_peers_say_the_same_in_float32(llama: Case) -> None:
    model = inference.endless(str(llama.folder), 32)
    ways = (inference.lensbench(model), inference.hugging_face(model))
    answers = [way(IDS, rows, 4)() for way in ways for rows in (1, 3)]
    assert all(answer == answers[0] for answer in answers)
    assert {len(tokens) for tokens in answers[0]} == {4}


@pytest.mark.slow
def test_memory_of_a_tiny_run(tmp_path: Path) -> None:
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps({"model_type": "llama", **TINY["llama"].fields}))
    assert memory._alone("write", config, tmp_path / "model") == {}
    facts = memory._alone("measure", tmp_path / "model", 8, 2, 3, 5)
    assert facts["new_tokens"] == [5, 5]
    assert facts["weight_bytes"] < facts["peak_imported_bytes"] <= facts["peak_bytes"]
    assert "| weights | 0.00 |" in memory._markdown("tiny", facts)


@pytest.fixture(scope="module")
def facts_ids(smollm_folder: Path) -> list[list[int]]:
    """Some 60 prompts of the shipped set, as the real model's tokens."""
    tokenizer = open_tokenizer(smollm_folder)
    base = [prompt for prompt in choose(load_prompts("facts").prompts, 64) if prompt.is_base]
    return [tokenizer(prompt.prompt).input_ids for prompt in base]


@pytest.mark.real
@pytest.mark.slow
def test_what_each_precision_costs(facts_ids: list[list[int]]) -> None:
    """The bounds are about twice what was measured, which was up to .0017, .067 and .54 bits.

    Processors differ: without AVX512, bitsandbytes multiplies in float32.
    """
    exact = load_quantized("smollm2-135m", 32, device="cpu")
    reference = logprobs(exact.hf, facts_ids)
    for bits, bound in ((16, 0.004), (8, 0.15), (4, 1.1)):
        model = load_quantized("smollm2-135m", bits, device="cpu")
        assert float(kl_bits(reference, logprobs(model.hf, facts_ids)).mean()) < bound
        predicted = sizes_of(exact.base.config).weight_bytes(bits)
        assert model.weight_bytes == pytest.approx(predicted, rel=0.01)


@pytest.mark.real
@pytest.mark.slow
def test_llm_int8_depends_on_the_batch_and_without_outliers_it_does_not(
    facts_ids: list[list[int]],
) -> None:
    some = facts_ids[:24]
    mixed = load_quantized("smollm2-135m", 8, device="cpu")
    assert float(batch_effect_bits(mixed.hf, some, rows=4).mean()) > 0.001
    apart = load_quantized("smollm2-135m", 8, device="cpu", int8_threshold=0)
    assert float(batch_effect_bits(apart.hf, some, rows=4).max()) == 0
