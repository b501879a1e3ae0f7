"""LongRoPE: a prompt is read by the frequencies of its own length, whoever is in its batch."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lensbench import Prompt, load_model, logit_lens
from lensbench.checkpoints.config.shape import rope_switch
from lensbench.errors import GateError
from lensbench.prompts.batch import plan_batches
from lensbench.quantized.generation.batching import apart
from lensbench.quantized.generation.generate import generate
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from tests.harness.program import Program
from tests.harness.tiny import TINY, Tiny, save

SWITCH = 8
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.2, 1.3, 1.1],
    "long_factor": [4.0, 6.0, 7.0, 9.0],
    "original_max_position_embeddings": SWITCH,
}
PROMPTS = {
    "short": "Rome",
    "crossing": "The capital of Germany is",
    "long": "The chemical symbol of gold is Au and the opposite of hot is cold. Paris is",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fields = TINY["llama"].fields | {"rope_parameters": _LONG}
    return save(Tiny("llama", fields, "bytes"), tmp_path_factory.mktemp("model") / "longrope")


def test_the_switch_is_the_length_that_the_model_was_first_trained_with(folder: Path) -> None:
    assert rope_switch(AutoConfig.from_pretrained(folder)) == SWITCH
    phi = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    fields = TINY["llama"].fields | {"pad_token_id": 0, "original_max_position_embeddings": 4096}
    assert rope_switch(AutoConfig.for_model("phi3", **fields, rope_parameters=phi)) == 4096
    assert rope_switch(AutoConfig.for_model("llama")) is None
    assert rope_switch(AutoConfig.for_model("gpt2")) is None


def test_batches_part_at_the_switch() -> None:
    assert plan_batches([3, 8, 9, 12], 100) == [[0, 1, 2, 3]]
    assert plan_batches([3, 8, 9, 12], 100, 8) == [[0, 1], [2, 3]]


def test_the_lens_reads_each_prompt_as_hugging_face_reads_it_alone(folder: Path) -> None:
    model = load_model(folder, device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [Prompt(name, text, answer="Berlin") for name, text in PROMPTS.items()]
    assert {model.to_tokens(text).shape[1] > SWITCH for text in PROMPTS.values()} == {True, False}
    frame = logit_lens(model, prompts, positions="last").to_pandas()
    for prompt in prompts:
        with torch.inference_mode():
            wanted = plain(model.to_tokens(prompt.prompt)).logits[0, -1].softmax(-1)
        (row,) = frame[(frame.prompt_id == prompt.id) & (frame.layer == 3)].itertuples()
        assert row.answer_prob == pytest.approx(float(wanted[row.answer_id]), rel=1e-4)


def test_answers_are_those_of_each_prompt_alone(
    folder: Path, tmp_path: Path, lensbench: Program
) -> None:
    asked = tmp_path / "asked.csv"
    with asked.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "prompt"), *PROMPTS.items()])
    how = ["--bits", "32", "--max-new-tokens", "4", "--style", "none"]
    found = []
    for size in (1, 3):
        out = tmp_path / f"{size}.csv"
        done = lensbench("infer", folder, asked, "-o", out, *how, "--batch-size", size)
        assert done.status == 0, done.said
        (table,) = tmp_path.glob(f"{size}*/**/responses.parquet")
        found.append(pd.read_parquet(table).sort_values("prompt_id"))
    one, three = found
    assert list(one.response) == list(three.response)
    for alone, together in zip(one.token_logprob_bits, three.token_logprob_bits, strict=True):
        assert alone == pytest.approx(together, abs=1e-3)


def test_what_passes_the_switch_on_its_way_is_alone(folder: Path) -> None:
    model = load_quantized(folder, 32, device="cpu")
    lengths = [(3, 5), (4, 4), (4, 5), (5, 5), (9, 1), (12, 5)]
    kinds = apart(model, lengths)
    assert kinds[0] == kinds[1] and kinds[4] == kinds[5]
    assert len(set(kinds)) == 4


def crossing(kind: str, tmp_path: Path) -> AdaptedModel:
    """A tiny model whose frequencies change at sixteen tokens."""
    rope = _LONG | {"original_max_position_embeddings": 16}
    fields = TINY["llama"].fields | {"rope_parameters": rope, "pad_token_id": 0}
    fields |= {"original_max_position_embeddings": 16} if kind == "phi3" else {}
    return load_quantized(f"{save(Tiny(kind, fields, 'bytes'), tmp_path / kind)}@32", device="cpu")


def test_an_answer_that_passes_the_switch_is_what_each_token_is_read_as(tmp_path: Path) -> None:
    """Phi-3 reads all anew there, so that its cache is right on both sides."""
    model, prompt = crossing("phi3", tmp_path), [5, 6, 7, 8, 9, 10]
    (answer,) = generate(model, [prompt], Decoding(max_new_tokens=20))
    for n, (token, bits) in enumerate(
        zip(answer.token_ids, answer.token_logprob_bits, strict=True)
    ):
        before = torch.tensor([[*prompt, *answer.token_ids[:n]]])
        with torch.inference_mode():
            own = model.base(input_ids=before, use_cache=False).logits[0, -1].log_softmax(-1)
        assert bits == pytest.approx(float(own[token]) / math.log(2), abs=1e-4)


@pytest.mark.parametrize("before", [None, 9], ids=["at once", "after an answer below it"])
def test_a_cache_that_is_kept_across_the_switch_is_refused(
    before: int | None, tmp_path: Path
) -> None:
    model, prompt = crossing("llama", tmp_path), [5, 6, 7, 8, 9, 10]
    if before is not None:
        generate(model, [prompt], Decoding(max_new_tokens=before))
    with pytest.raises(GateError, match="Keep prompt and answer within 16 tokens"):
        generate(model, [prompt], Decoding(max_new_tokens=14))
