"""What stands between a prompt and its answer: orthography's rule, and the tokens it leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from lensbench import Prompt, load_model, logit_lens
from lensbench.models.model import LensModel
from lensbench.prompts.encode import Encoder
from lensbench.prompts.joint import Joint, joint_of
from tests.harness.tiny import tokenizer

SPACE = [
    ("The capital of Germany is", "Berlin"),
    ("2 + 2 =", "4"),
    ("x =", "5"),
    ("def", "add"),
    ('the word "dog"', "is"),
    ("“Hello”", "she"),
    ("Answer:", "4"),
    ("1, 2, 3,", "4"),
    ("A ->", "B"),
    ("It cost 5%", "more"),
    ("대한민국의 수도는", "서울"),  # Korean has spaces
    ("عاصمة فرنسا هي", "باريس"),
    ("בירת צרפת היא", "פריז"),
    ("The Chinese word for water is", "水"),
    ("I love 🍕", "pizza"),
    ("He said", "'so'"),
    ("Rock", "'n"),
    ("The pizza emoji is", "🍕"),
]
NONE = [
    ("2+2=", "4"),
    ("x=", "5"),
    ("print(", "x"),
    ("[1, 2, [", "3"),
    ('The capital of France is called "', "Paris"),
    ("La capitale de la France est «", "Paris"),
    ("“", "Hello"),
    ("says '", "hi"),
    ("l'", "eau"),
    ("the variable `", "x"),
    ("¿", "Qué"),
    ("well-", "known"),
    ("1914-", "1918"),
    ("3.", "14"),
    ("It costs $", "5"),
    ("import numpy as np; np.linalg/", "x"),
    ("She left", ","),
    ("(see above", ")"),
    ("中国的首都是", "北京"),
    ("答案是A", "和"),
    ("日本の首都は「", "東京"),
    ("เมืองหลวงของไทยคือ", "กรุงเทพ"),
    ("<b>", "word"),
    ("She can", "'t"),
    ("John", "'s"),
    ("They", "\u2019re"),
]
WRITTEN = [
    ("The capital of Germany is", " Berlin"),
    ("The capital of Germany is ", "Berlin"),
    ("The capital of Germany is\n", "Berlin"),
    ("Q: Rome?\nA:\t", "yes"),
    ("2+2=", " 4"),
]


@pytest.mark.parametrize(
    ("text", "word", "joint"),
    [
        (*pair, joint)
        for joint, pairs in (("space", SPACE), ("none", NONE), ("written", WRITTEN))
        for pair in pairs
    ],
)
def test_what_an_author_writes_between_them(text: str, word: str, joint: Joint) -> None:
    assert joint_of(text, word) == joint


WHOLE = {"space": " ", "none": "", "written": ""}


@settings(max_examples=200, deadline=None)
@given(
    text=st.text("abcR o.=(\"'2中\n🍕-", min_size=1, max_size=12).filter(str.strip),
    word=st.text('Beo R4京,"(', min_size=1, max_size=6).filter(str.strip),
)
def test_prompt_and_answer_together_say_the_whole_text(text: str, word: str) -> None:
    """By the tokenizer itself: the tokens of both are a spelling of the text with its joint."""
    byte_level = _BYTES
    if text[-1].isspace() and word[0].isspace():
        return  # a space too many: refused where it would be what is scored
    item = Encoder(byte_level, 64).encode(Prompt("p", text, answer=word))
    assert item.answer is not None
    said = byte_level.decode([*item.token_ids, *item.answer.token_ids])
    whole = text + WHOLE[joint_of(text, word)] + word
    assert said == whole
    # Whatever is scored says something of the answer: never a lone space before a word.
    if word[:1] != "\n":
        assert byte_level.decode([item.answer.id]) != " "
    if not item.answer.split and item.answer.joint != "space_token":
        assert byte_level(whole).input_ids == [*item.token_ids, *item.answer.token_ids]


_BYTES = tokenizer("bytes")


def test_the_usual_answer_is_the_same_with_and_without_its_space(
    tok: PreTrainedTokenizerBase,
) -> None:
    encoder = Encoder(tok, 64)
    plain, written = (
        encoder.encode(Prompt("p", "The capital of Germany is", answer=answer)).answer
        for answer in ("Berlin", " Berlin")
    )
    assert plain is not None and written is not None
    assert plain.token_ids == written.token_ids
    assert (plain.joint, written.joint) == ("space", "written")


def test_a_written_space_at_the_prompt_s_end_stays(tok: PreTrainedTokenizerBase) -> None:
    """The prompt goes to the model as it is asked; the answer goes on from there."""
    text = "The capital of Germany is "
    item = Encoder(tok, 64).encode(Prompt("p", text, answer="Berlin"))
    assert item.answer is not None
    assert item.token_ids == tuple(tok(text).input_ids)
    assert item.answer.split
    assert tok.decode(item.answer.token_ids).strip() == "Berlin"
    assert item.answer_other is None


def test_a_space_that_is_a_token_ends_the_prompt_and_is_not_scored() -> None:
    item = Encoder(_BYTES, 64).encode(Prompt("p", "2 + 2 =", answer="4"))
    assert item.answer is not None
    assert (item.text, item.answer.joint) == ("2 + 2 = ", "space_token")
    assert _BYTES.decode(item.answer.token_ids) == "4"
    assert item.token_ids == tuple(_BYTES("2 + 2 = ").input_ids)


@pytest.fixture(
    scope="module", params=["smollm_folder", pytest.param("gemma3_folder", marks=pytest.mark.slow)]
)
def real(request: pytest.FixtureRequest) -> tuple[LensModel, Any]:
    """A model that writes a space as part of a token by itself, and as SentencePiece does."""
    folder: Path = request.getfixturevalue(request.param)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return load_model(folder, device="cpu", dtype="float32"), plain


@pytest.mark.real
@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("2+2=", "4"),
        ('The capital of France is called "', "Paris"),
        ("中国的首都是", "北京"),
        ("print(", "x"),
        ("The opposite of hot is", "cold"),
        ("The opposite of hot is", " cold"),
    ],
)
def test_what_is_scored_is_what_hugging_face_says_of_it(
    real: tuple[LensModel, Any], prompt: str, answer: str
) -> None:
    """Rank and probability of the token after the prompt in the whole text, by transformers."""
    (loaded, model), tok = real, real[0].tokenizer
    between = " " if prompt[-1].isalpha() and prompt.isascii() and answer[0] != " " else ""
    asked = tok(prompt, return_tensors="pt")
    with torch.no_grad():
        logits = model(**asked).logits[0, -1]
    wanted = tok(prompt + between + answer).input_ids[asked.input_ids.shape[1]]
    frame = logit_lens(loaded, Prompt("p", prompt, answer=answer), positions="last").to_pandas()
    last = frame[frame.layer == loaded.n_layers].iloc[0]
    assert last.answer_id == wanted
    assert last.answer_rank == int((logits > logits[wanted]).sum()) + 1
    assert last.answer_prob == pytest.approx(float(logits.softmax(-1)[wanted]), rel=1e-4)
