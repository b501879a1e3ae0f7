"""Words and their tokens: what a word's tokens say, whatever the tokenizer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    ByT5Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lensbench.prompts.words import align, words_of
from tests.harness.tiny import SENTENCES
from tests.harness.tiny_bert import bert_tokenizer

TEXT = "The mayor's old river-boat, no. 12, left Zürich (at night): 東京 never saw it."
WORDS = [
    "The",
    "mayor's",
    "old",
    "river-boat",
    "no",
    "12",
    "left",
    "Zürich",
    "at",
    "night",
    "東京",
    "never",
    "saw",
    "it",
]


def test_words_are_letters_with_what_joins_them() -> None:
    assert [TEXT[start:end] for start, end in words_of(TEXT)] == WORDS
    assert words_of(" -- ' ... ") == []


def said(tokenizer: Any, ids: list[int], positions: tuple[int, ...]) -> str:
    return str(tokenizer.decode([ids[i] for i in positions], clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("text", [*SENTENCES, "A city -- not Paris -- is hot; (Rome), as well!"])
def test_a_words_tokens_decode_to_it(tok: PreTrainedTokenizerBase, text: str) -> None:
    ids = tok(text).input_ids
    found = align(tok, text, ids, "here")
    assert found.problems == []
    for (start, end), positions in zip(found.words, found.positions, strict=True):
        assert said(tok, ids, positions).strip(" .,:;!()-") == text[start:end]


def test_letters_of_several_tokens_are_one_word(tok: PreTrainedTokenizerBase) -> None:
    """Of bytes a letter is several tokens too; an emoji is no word."""
    if tok("é").input_ids == tok("東").input_ids:
        pytest.skip("this tokenizer has one token for all that it does not know")
    text = "naïve 東京 🍕 Zürich"
    ids = tok(text).input_ids
    found = align(tok, text, ids, "here")
    assert found.problems == []
    spoken = [said(tok, ids, positions).strip() for positions in found.positions]
    assert spoken == ["naïve", "東京", "Zürich"]


def test_a_tokenizer_without_offsets_is_read_by_what_it_decodes() -> None:
    """ByT5's tokens are the bytes of the text in UTF-8, and an end token."""
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    ids = tokenizer(TEXT).input_ids
    found = align(tokenizer, TEXT, ids, "here")
    for (start, end), positions in zip(found.words, found.positions, strict=True):
        first = len(TEXT[:start].encode())
        assert positions == tuple(range(first, first + len(TEXT[start:end].encode())))


def test_bert_aligns_in_lower_case_and_pieces(tmp_path: Path) -> None:
    tokenizer = bert_tokenizer(tmp_path)
    text = "The River's gold, number 12."
    ids = tokenizer(text).input_ids
    found = align(tokenizer, text, ids, "here")
    assert found.problems == []
    pieces = [tokenizer.convert_ids_to_tokens([ids[i] for i in own]) for own in found.positions]
    joined = ["".join(piece.removeprefix("##") for piece in own) for own in pieces]
    assert joined == ["the", "river's", "gold", "number", "12"]
    assert not {0, len(ids) - 1} & {i for own in found.positions for i in own}  # CLS and SEP


def whole_phrases() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for two words."""
    vocabulary = {piece: i for i, piece in enumerate(["a", "b", "Ġ", "aĠ", "aĠb", "Ġa"])}
    core = Tokenizer(models.BPE(vocabulary, [("a", "Ġ"), ("aĠ", "b"), ("Ġ", "a")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def test_two_words_in_a_token_are_a_problem_and_the_others_are_aligned() -> None:
    tokenizer = whole_phrases()
    ids = tokenizer("a b a").input_ids
    found = align(tokenizer, "a b a", ids, "set.csv, row 2, id x")
    assert found.positions[:2] == [(), ()]
    assert said(tokenizer, ids, found.positions[2]).strip() == "a"
    assert [problem.what for problem in found.problems] == [
        "the word 'a' is in one token with another",
        "the word 'b' is in one token with another",
    ]
    assert {problem.where for problem in found.problems} == {"set.csv, row 2, id x"}


def test_tokens_of_another_text_align_nothing(tok: PreTrainedTokenizerBase) -> None:
    ids = tok("The capital of France").input_ids
    found = align(tok, "The river Rhine", ids, "here")
    assert found.positions == [()] * 3
    assert len(found.problems) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा, मराठी।", ["हिन्दी", "भाषा", "मराठी"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("na\u0308ive cafe\u0301s", ["na\u0308ive", "cafe\u0301s"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("ne\u0301e-Muller's, n\u2019est", ["ne\u0301e-Muller's", "n\u2019est"]),
        ("a \N{WOMAN}\u200d\N{MAN}\ufe0f b", ["a", "b"]),
        ("x_1 2½ 3.5", ["x_1", "2½", "3", "5"]),
    ],
)
def test_marks_and_joiners_are_of_their_word(text: str, words: list[str]) -> None:
    """Vowel signs, accents that are written apart, Persian's joiners; emoji hold no word."""
    assert [text[start:end] for start, end in words_of(text)] == words


@given(st.text(st.characters(max_codepoint=0x24F), max_size=40))
def test_words_of_latin_texts_are_runs_of_letters_and_digits(text: str) -> None:
    """Where nothing is written apart, they are those of Python's own pattern."""
    wanted = re.findall(r"\w+(?:['\u2019-]\w+)*", text)
    assert [text[start:end] for start, end in words_of(text)] == wanted
