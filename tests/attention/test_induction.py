"""A two-layer attention-only model with an induction head made by hand (Elhage et al. 2021).

Every weight is set, so that what each head does is known before anything is measured. Head 0 of
block 0 looks at the token before and writes down which it was; head 0 of block 1 looks for tokens
behind which the current one stood. Heads 1 have no weights and look everywhere alike.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lensbench
from lensbench.attention.conditions import REPEATS, repeated
from lensbench.attention.settings import AttentionSettings
from lensbench.models.load import load_model
from tests.harness.tiny import tokenizer

V, P = 384, 64  # tokens, positions
WIDTH = 2 * V + P  # of a state: its token, its position and the token before, each as a one-hot
BEFORE = V + P
L = 10  # random tokens, all different


def by_hand() -> Any:
    """GPT-2's class without MLPs. Its norm makes about sqrt(WIDTH / k) of each of k ones."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": V, "n_positions": P, "n_embd": WIDTH, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, n_inner=1, tie_word_embeddings=False)).eval()
    token, place = torch.arange(V), torch.arange(P)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".ln_" not in name:
                weight.zero_()
        model.transformer.wte.weight[token, token] = 1
        model.transformer.wpe.weight[place, V + place] = 1
        first, second = (block.attn for block in model.transformer.h)
        query, key, value = (
            0,
            WIDTH,
            2 * WIDTH,
        )  # columns of the joint matrix, from each on head 0's
        first.c_attn.weight[V + place[1:], query + place[:-1]] = 2
        first.c_attn.weight[V + place, key + place] = 2
        first.c_attn.weight[token, value + token] = 1
        first.c_proj.weight[token, BEFORE + token] = (2 / WIDTH) ** 0.5
        second.c_attn.weight[token, query + token] = 2
        second.c_attn.weight[BEFORE + token, key + token] = 2
        second.c_attn.weight[token, value + token] = 1
        second.c_proj.weight[token, token] = 1
    return model


def test_an_induction_head_made_by_hand_is_found_and_no_other_head() -> None:
    model = load_model(by_hand(), tokenizer=tokenizer("bytes+bos"), device="cpu")
    settings = AttentionSettings(repeat_tokens=L, n_repeated=3, seed=1)
    for text in repeated(model, [], settings):
        assert len({*text.token_ids}) == L + 1  # and the first
    found = lensbench.attention(
        model, [1, 5, 6, 7], conditions="repeated", repeat_tokens=L, n_repeated=3, seed=1
    )
    names = ["previous_token", "induction", "prefix_matching"]
    for weighting, rows in found.to_pandas().groupby("weighting"):
        score = rows.groupby(["block", "head"])[names].mean()
        assert score.loc[0, 0]["previous_token"] == pytest.approx(1, abs=1e-3)
        assert score.loc[1, 0]["prefix_matching"] == pytest.approx(1, abs=1e-3)
        # In the second repeat it finds one such token, in the third two, in the fourth three.
        shares = [1 / n for n in range(1, REPEATS)]
        assert score.loc[1, 0]["induction"] == pytest.approx(sum(shares) / 3, abs=1e-3)
        others = score.drop([(0, 0), (1, 0)])
        if weighting == "plain":
            assert (others < 0.15).all(None)
            assert score.loc[1, 0]["previous_token"] < 0.15
            assert (score.loc[0, 0][["induction", "prefix_matching"]] < 0.15).all()
        else:
            assert others.isna().all(None)  # they move nothing
