"""Similarity of heads: SciPy's divergence, a whole pass by Hugging Face, clusters by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from transformers import AutoModelForCausalLM

from lensbench.attention.compared.similarity import N_QUERIES, head_similarity, js_bits, queries
from lensbench.models.load import load_model
from tests.harness.tiny import SENTENCES, Case, Tiny, save

GPT_OSS = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "sliding_window": 4,
}


def test_divergences_are_scipys() -> None:
    rows = torch.rand(5, 3, 7, generator=torch.Generator().manual_seed(0))
    rows[:, :, 5:] = 0
    rows[1] = rows[0]
    rows /= rows.sum(-1, keepdim=True)
    found = js_bits(rows)
    for i in range(5):
        for j in range(5):
            each = [jensenshannon(rows[i, q], rows[j, q], base=2) ** 2 for q in range(3)]
            assert found[i, j] == pytest.approx(np.mean(each), abs=1e-6)
    assert found[0, 1] == 0


def test_heads_that_never_look_at_the_same_are_one_bit_apart() -> None:
    rows = torch.eye(2)[:, None]
    np.testing.assert_allclose(js_bits(rows), [[0, 1], [1, 0]], atol=1e-7)


def test_over_prompts_it_is_the_mean_of_hugging_faces_own_patterns(llama: Case) -> None:
    prompts = [ids for ids in llama.token_ids if len(ids) > 1]
    found = head_similarity(llama.model, prompts)
    hf = llama.fresh_hf()
    hf.set_attn_implementation("eager")
    expected = []
    for ids in prompts:
        with torch.no_grad():
            patterns = torch.cat(hf(torch.tensor([ids]), output_attentions=True).attentions[:])
        rows = patterns.flatten(0, 1)[:, 1:]
        assert len(ids) <= N_QUERIES + 1
        own = jensenshannon(rows[:, None], rows[None], base=2, axis=-1) ** 2
        expected.append(np.nan_to_num(own).mean(-1))
    assert found.n_prompts == len(prompts)
    np.testing.assert_allclose(found.js_bits, np.mean(expected, 0), atol=1e-5)


def test_what_a_sink_takes_is_a_place_to_look_too(tmp_path: Path) -> None:
    """gpt-oss: a head that gives all to its sink is a bit from one that gives it nothing."""
    row = Tiny("gpt_oss", GPT_OSS, "bytes")
    model = load_model(save(row, tmp_path), device="cpu")
    ids = model.tokenizer(SENTENCES[0]).input_ids[: N_QUERIES + 1]
    hf = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        patterns = torch.cat(hf(torch.tensor([ids]), output_attentions=True).attentions[:])
    rows = patterns.flatten(0, 1)[:, 1:].double()
    left = (1 - rows.sum(-1, keepdim=True)).clamp(min=0)
    assert left.min() < 0.1 < 0.9 < left.max()
    whole = torch.cat([rows, left], -1)
    own = jensenshannon(whole[:, None], whole[None], base=2, axis=-1) ** 2
    found = head_similarity(model, [ids]).js_bits
    np.testing.assert_allclose(found, np.nan_to_num(own).mean(-1), atol=1e-5)


def test_a_long_prompt_is_compared_at_some_of_its_queries() -> None:
    few, many = queries(9, 0), queries(400, 3)
    assert few == list(range(1, 9))
    assert len(many) == N_QUERIES
    assert many == queries(400, 3) != queries(400, 4)
    assert many == sorted(set(many))
    assert 0 not in many
