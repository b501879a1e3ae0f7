"""`residual_stream`: one prompt or many, in any form, and what cannot be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensbench import InputProblems, Prompt, load_prompts, residual_stream
from lensbench.models.sites import VECTORS
from lensbench.prompts.encode import Encoder, encode_all
from lensbench.residuals.capture import Residuals
from tests.harness.tiny import PROMPTS, Case


def same(one: Residuals, other: Residuals) -> None:
    assert one.sites == other.sites
    assert one.cells == other.cells
    torch.testing.assert_close(one.stream, other.stream, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(one.logits, other.logits, atol=5e-5, rtol=0)


def test_many_prompts_are_each_prompt_alone(family: Case) -> None:
    """Several batches, prompts of many lengths, in the order in which they were given."""
    together = residual_stream(family.model, PROMPTS, batch_tokens=24)
    assert len(together) == len(PROMPTS)
    for prompt, ids, found in zip(PROMPTS, family.token_ids, together, strict=True):
        same(found, residual_stream(family.model, prompt))
        assert found.stream.shape == (1 + family.model.n_layers, len(ids), 32)
        assert found.logits.shape == (1, len(ids), family.model.d_vocab)
        assert found.model_logits(slice(0, 2)).shape[0] == min(2, len(ids))


def test_texts_token_ids_and_prompts_are_the_same_prompt(llama: Case) -> None:
    text, ids = PROMPTS[0], llama.token_ids[0]
    wanted = residual_stream(llama.model, text)
    for given in (ids, tuple(ids), np.array(ids), torch.tensor(ids), Prompt("p", text)):
        same(residual_stream(llama.model, given), wanted)
    for given in ([text], [ids], torch.tensor([ids]), [Prompt("p", text)], iter([text])):
        (found,) = residual_stream(llama.model, given)
        same(found, wanted)
    both = residual_stream(llama.model, [text, ids, Prompt("other", text)])
    assert len(both) == 3


def test_a_prompt_set_is_taken(gpt2: Case, tmp_path: Path) -> None:
    """An answer that cannot be scored is no matter here."""
    file = tmp_path / "small.csv"
    file.write_text("id,relation,prompt,answer\na,x,Rome,\nb,x,The capital of,  \n")
    encoder = Encoder(gpt2.model.tokenizer, gpt2.model.n_ctx)
    assert len(encode_all(encoder, load_prompts(file).prompts)[1]) == 1
    found = residual_stream(gpt2.model, load_prompts(file), "blocks.1.resid_post")
    assert [one.stream.shape[0] for one in found] == [1, 1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "prompts: int is no prompt"),
        (None, "prompts: NoneType is no prompt"),
        (b"Rome", "prompts: bytes is no prompt"),
        ({"a": "Rome"}, "prompts: dict is no prompt"),
        ([], "there is nothing to read"),
        ("", "the prompt is empty"),
        (["Rome", None, 3.5], "prompts, item 2: NoneType is no prompt"),
        ([1.5, 2], "prompts, item 1: float is no prompt"),
        ([[]], "prompts, item 1: list is no prompt"),
        ([True, False], "prompts, item 1: bool is no prompt"),
        ([1, 9999], "there is no token 9999. The tokenizer has 0 to "),
        ([1, -1], "there is no token -1"),
        (["Rome"] * 2 + [Prompt("p2", "Rome")], "the id p2 stands twice"),
        ([1] * 65, "the prompt has 65 tokens"),
    ],
    ids=str,
)
def test_what_is_no_prompt_is_one_sentence(llama: Case, given: Any, words: str) -> None:
    with pytest.raises(InputProblems) as caught:
        residual_stream(llama.model, given)
    assert words in str(caught.value)


def test_a_model_that_is_not_loaded_is_one_sentence() -> None:
    with pytest.raises(InputProblems, match=r"model: 'llama' is no loaded model\. Give what"):
        residual_stream("llama", "Rome")  # type: ignore[arg-type]


def test_all_vectors_can_be_captured(llama: Case) -> None:
    residuals = residual_stream(llama.model, PROMPTS[0], VECTORS)
    assert {site.kind for site in residuals.sites} == set(VECTORS)
    assert bool(residuals.stream.isfinite().all())


def test_sites_that_are_no_vectors_are_one_sentence(llama: Case) -> None:
    with pytest.raises(InputProblems, match=r"blocks\.0\.pattern.*no vector.*Choose from embed"):
        residual_stream(llama.model, "Rome", "pattern")
    with pytest.raises(InputProblems, match=r"has no blocks\.7\.attn_out"):
        residual_stream(llama.model, "Rome", "blocks.7.attn_out")
