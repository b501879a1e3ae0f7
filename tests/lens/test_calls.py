"""`logit_lens` called from Python: prompts in any form, one thing for a list of it, wrong types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench import InputProblems, Prompt, load_prompts, logit_lens
from lensbench.prompts.encode import Encoder
from tests.harness.families import distinct_families
from tests.harness.tiny import PROMPTS, Case

NUMBERS = ["layer", "position", "token_id", "entropy_bits", "kl_bits", "answer_rank"]


def numbers(case: Case, prompts: Any, **settings: Any) -> pd.DataFrame:
    return logit_lens(case.model, prompts, **settings).to_pandas()[NUMBERS]


@distinct_families
def test_token_ids_are_read_as_their_text_is(family: Case) -> None:
    ids = family.token_ids[0]
    wanted = numbers(family, PROMPTS[0])
    for one in (ids, tuple(ids), np.array(ids), torch.tensor(ids), [ids], torch.tensor([ids])):
        pd.testing.assert_frame_equal(numbers(family, one), wanted)


def test_token_ids_go_in_as_they_are(llama: Case) -> None:
    """No BOS is put before them; the text of a record is what the tokenizer makes of them."""
    bos, *rest = llama.token_ids[0]
    result = logit_lens(llama.model, rest)
    assert result.prompts["token_ids"].to_pylist() == [rest]
    assert result.prompts["text"].to_pylist() == [llama.model.tokenizer.decode(rest)]
    both = logit_lens(llama.model, [rest, [bos, *rest], PROMPTS[0]])
    assert both.prompts["prompt_id"].to_pylist() == ["p1", "p2", "p3"]
    assert [len(ids) for ids in both.prompts["token_ids"].to_pylist()] == [
        len(rest),
        len(rest) + 1,
        len(rest) + 1,
    ]


def test_an_answer_follows_token_ids_as_it_follows_their_text(family: Case) -> None:
    encoder = Encoder(family.model.tokenizer, family.model.n_ctx)
    wanted = encoder.encode(Prompt("a", PROMPTS[0], answer="Berlin"))
    found = encoder.encode(Prompt("a", "", answer="Berlin", token_ids=wanted.token_ids))
    assert found.token_ids == wanted.token_ids
    assert found.answer == wanted.answer


def test_a_prompt_set_is_taken(gpt2: Case, tmp_path: Path) -> None:
    file = tmp_path / "small.csv"
    file.write_text("id,relation,prompt,answer\na,x,Rome,is\nb,x,The capital of,Italy\n")
    result = logit_lens(gpt2.model, load_prompts(file), positions="last", layers=3)
    assert result.to_pandas().prompt_id.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ({"layers": 2}, {"layers": [2]}),
        ({"layers": np.int64(2)}, {"layers": (2,)}),
        ({"layers": range(1, 3)}, {"layers": np.arange(1, 3)}),
        ({"positions": 0}, {"positions": [0]}),
        ({"positions": -1}, {"positions": torch.tensor([-1])}),
        ({"sites": "resid_post"}, {"sites": ["resid_post"]}),
        ({"lens": "raw"}, {"lens": ["raw"]}),
    ],
    ids=str,
)
def test_one_stands_for_a_list_of_it(
    llama: Case, one: dict[str, Any], several: dict[str, Any]
) -> None:
    found, wanted = (numbers(llama, PROMPTS[0], **given) for given in (one, several))
    pd.testing.assert_frame_equal(found, wanted)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": "2"}, "layers: '2' is no whole number"),
        ({"layers": [0, 1.5]}, "layers: 1.5 is no whole number"),
        ({"positions": None}, "positions: None is no whole number"),
        ({"positions": [True]}, "positions: True is no whole number"),
        ({"top_k": "5"}, "top_k: '5' is no whole number"),
        ({"batch_tokens": 0}, "batch_tokens: is 0. Give 1 or more"),
        ({"lens": 3}, "lens: there is no 3. Choose from final, next, raw"),
        ({"sites": None}, "sites: there is no None. Choose from embed, resid_mid, resid_post"),
        ({"template": "sonnet"}, "template: there is no 'sonnet'. Choose from plain, chat"),
    ],
    ids=str,
)
def test_a_wrong_type_is_one_sentence(llama: Case, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputProblems) as caught:
        logit_lens(llama.model, PROMPTS[0], **settings)
    assert len(caught.value.problems) == 1
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (None, "prompts: NoneType is no prompt. Give a text, token ids or a Prompt"),
        ([3.5], "prompts, item 1: float is no prompt"),
        ([5, -7], "there is no token -7"),
        (Prompt("p", "", token_ids=()), "there are no token ids"),
    ],
    ids=str,
)
def test_what_is_no_prompt_is_one_sentence(llama: Case, prompts: Any, words: str) -> None:
    with pytest.raises(InputProblems) as caught:
        logit_lens(llama.model, prompts)
    assert len(caught.value.problems) == 1
    assert words in str(caught.value)


def test_a_model_that_is_not_loaded_is_one_sentence() -> None:
    with pytest.raises(InputProblems, match=r"model: 'smollm2-135m' is no loaded model\. Give"):
        logit_lens("smollm2-135m", PROMPTS[0])  # type: ignore[arg-type]


def test_token_ids_take_no_template(llama: Case) -> None:
    tokenizer = llama.model.tokenizer
    tokenizer.chat_template = "{{ messages[0].content }}"
    try:
        with pytest.raises(InputProblems, match="token ids go to the model as they are"):
            logit_lens(llama.model, llama.token_ids[0], template="chat")
    finally:
        tokenizer.chat_template = None


def test_a_picture_of_what_is_not_there_is_one_message(llama: Case) -> None:
    result = logit_lens(llama.model, PROMPTS[0])
    assert result.plot(value="answer_rank") is not None
    with pytest.raises(InputProblems) as caught:
        result.plot("p7", value="token")
    words = ["there is no prompt 'p7'", "nothing measured is called 'token'. Choose from: entropy"]
    assert len(caught.value.problems) == 2
    assert all(word in str(caught.value) for word in words)


def test_one_relation_of_a_set() -> None:
    facts = load_prompts("facts")
    assert facts.only("capital") == facts.only(["capital"])


@given(order=st.permutations(range(5)))
@settings(max_examples=10, deadline=None)
def test_rows_come_back_in_the_order_they_went_in(llama: Case, order: list[int]) -> None:
    """Prompts of five lengths, which share batches by length: the rows are those of each alone."""
    texts = ["Rome", "Rome is in", "The capital of Germany is", "The the", "A dog and a cat and"]
    asked = [Prompt(f"n{i}", texts[i], answer="Rome") for i in order]
    together = logit_lens(llama.model, asked, positions="last", batch_tokens=8)
    frame = together.to_pandas()
    assert frame.prompt_id.drop_duplicates().tolist() == [prompt.id for prompt in asked]
    assert together.prompts["prompt_id"].to_pylist() == [prompt.id for prompt in asked]
    assert frame.prompt_id.ne(frame.prompt_id.shift()).sum() == len(asked)
