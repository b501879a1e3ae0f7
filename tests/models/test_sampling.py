"""What a model writes by itself, against its own class read token by token without a cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from lensbench.errors import ModelError
from lensbench.models.sampling import drawn, start_of_text, write_texts
from tests.harness.tiny import Case

SEEDS = [(7, number) for number in range(6)]
N_TOKENS = 24  # more than the sliding windows of the tiny models


@pytest.mark.parametrize("family", ("llama", "mistral", "gemma2", "gpt2", "qwen3"))
def test_a_text_is_drawn_from_the_models_own_distribution(
    tiny_case: Callable[[str], Case], family: str
) -> None:
    case = tiny_case(family)
    texts = write_texts(case.model, SEEDS, N_TOKENS)
    assert any(len(text) == N_TOKENS for text in texts)
    start = start_of_text(case.model.tokenizer)
    special = {start, *case.model.tokenizer.all_special_ids}
    for seed, text in zip(SEEDS, texts, strict=True):
        uniform, ids = np.random.default_rng(seed).random(N_TOKENS), [start]
        for number in uniform:
            with torch.no_grad():
                p = case.hf(torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1)
            ids.append(int(np.searchsorted(np.cumsum(p.numpy()), number, side="right")))
            if ids[-1] in special:
                ids.pop()
                break
        assert text == ids[1:]


def test_a_text_does_not_depend_on_those_beside_it(llama: Case) -> None:
    together = write_texts(llama.model, SEEDS, N_TOKENS)
    assert together == [write_texts(llama.model, [seed], N_TOKENS)[0] for seed in SEEDS]
    assert len({tuple(text) for text in together}) == len(SEEDS)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    p = torch.tensor([0.5, 0.0, 0.2, 0.3])
    uniform = torch.tensor(np.random.default_rng(0).random(20_000))
    ids = drawn(p.log().expand(len(uniform), -1), uniform)
    counts = np.bincount(ids.numpy(), minlength=4)
    assert counts[1] == 0
    assert chisquare(counts[[0, 2, 3]], 20_000 * p[[0, 2, 3]].numpy()).pvalue > 0.01
    edges = drawn(p.log().expand(2, -1), torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64))
    assert edges.tolist() == [0, 3]


def test_a_model_that_gives_no_numbers_writes_nothing() -> None:
    with pytest.raises(ModelError, match="NaN or Inf"):
        drawn(torch.tensor([[0.0, float("nan")]]), torch.tensor([0.5]))


def test_a_text_begins_where_the_tokenizer_has_it_begin(
    tiny_case: Callable[[str], Case],
) -> None:
    gemma = tiny_case("gemma2").model.tokenizer
    assert gemma.convert_ids_to_tokens(start_of_text(gemma)) == gemma.bos_token
    gpt2 = tiny_case("gpt2").model.tokenizer  # puts nothing before a text
    assert gpt2("").input_ids == []
    assert gpt2.convert_ids_to_tokens(start_of_text(gpt2)) in gpt2.all_special_tokens
