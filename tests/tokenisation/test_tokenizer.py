"""Pieces, their places and their kinds, against the tokenizers library and against bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, normalizers, pre_tokenizers

from lensbench.errors import InputProblems
from lensbench.tokenisation.counts import fates, text_counts
from lensbench.tokenisation.texts import Text, parallel_texts
from lensbench.tokenisation.tokenizer import Piece, Tokenizer, open_tokenizers
from tests.harness import tokenizers

ENGLISH = [text.text for text in parallel_texts() if text.language == "en"]
MIXED = "मला AI आवडतो"


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    return tokenizers.byte_level(ENGLISH)


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return tokenizers.wordpiece("[UNK]", "i", "love", "ai", "lo", "##ve", "##s", "!", "m", "न", "ल")


@pytest.fixture(scope="module")
def fallback() -> Tokenizer:
    return tokenizers.fallback("▁", "a", "म")


@pytest.fixture(scope="module")
def unigram() -> Tokenizer:
    return tokenizers.unigram(ENGLISH)


def test_each_kind_is_told_by_what_it_is_made_of(
    byte_level: Tokenizer, wordpiece: Tokenizer, fallback: Tokenizer, unigram: Tokenizer
) -> None:
    kinds = [one.kind for one in (byte_level, wordpiece, fallback, unigram)]
    assert kinds == ["byte-level BPE", "WordPiece", "BPE with byte fallback", "Unigram"]


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
@settings(max_examples=200, deadline=None)
def test_byte_level_pieces_are_the_bytes_of_the_text_and_come_back_whole(text: str) -> None:
    tokenizer = cached_byte_level()
    pieces = tokenizer.pieces(text)
    counts = counted(tokenizer, Text("t", text), pieces)
    assert tokenizer.text(pieces) == text
    assert (counts["n_lost"], counts["n_added"], counts["n_unknown"]) == (0, 0, 0)
    assert counts["n_bytes"] == len(text.encode()) == sum(map(size_of, pieces))
    assert counts["n_unread"] == 0


_CACHED: list[Tokenizer] = []


@pytest.fixture(scope="module", autouse=True)
def _keep(byte_level: Tokenizer) -> Iterable[None]:
    _CACHED[:] = [byte_level]
    yield
    _CACHED.clear()


def counted(tokenizer: Tokenizer, text: Text, pieces: Sequence[Piece]) -> dict[str, Any]:
    return text_counts(tokenizer, text, pieces, fates(text.text, pieces))


def cached_byte_level() -> Tokenizer:
    return _CACHED[0]


def size_of(piece: Piece) -> int:
    """Bytes of a piece: in a byte-level vocabulary a sign is a byte."""
    return len(piece.token)


def test_bytes_are_shown_as_what_they_spell_or_by_number(byte_level: Tokenizer) -> None:
    pieces = byte_level.pieces("é म")
    spelt = [(piece.shown, piece.kind) for piece in pieces]
    assert "".join(shown for shown, _ in spelt) == "<0xC3><0xA9> <0xE0><0xA4><0xAE>"
    assert [kind for _, kind in spelt] == ["byte", "byte", "text", "byte", "byte", "byte"]


def test_places_are_those_of_the_library(byte_level: Tokenizer, wordpiece: Tokenizer) -> None:
    for tokenizer in (byte_level, wordpiece):
        for text in ("I love AIs!!", MIXED, "  two  spaces\n", "é\u0301"):
            core = tokenizer.hf.backend_tokenizer.encode(text, add_special_tokens=False)
            own = tokenizer.pieces(text)
            assert [(p.start, p.end) for p in own] == core.offsets
            assert [p.token for p in own] == core.tokens


def test_what_becomes_of_characters_by_hand(
    byte_level: Tokenizer, wordpiece: Tokenizer, fallback: Tokenizer
) -> None:
    assert fates("aम", byte_level.pieces("aम")) == ["whole", "single_bytes"]
    assert fates("aमख", fallback.pieces("aमख")) == ["whole", "whole", "single_bytes"]
    love = "LOVE xyz"
    assert fates(love, wordpiece.pieces(love)) == ["whole"] * 4 + ["dropped"] + ["unknown"] * 3


def test_two_bytes_in_one_token_are_no_three_byte_tokens() -> None:
    core = Core(models.BPE({"à": 0, "¤": 1, "®": 2, "à¤": 3}, [("à", "¤")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    pieces = tokenizers.wrapped(core).pieces("म")
    assert [(p.shown, p.kind) for p in pieces] == [("<0xE0><0xA4>", "bytes"), ("<0xAE>", "byte")]
    assert fates("म", pieces) == ["split"]


def test_a_mark_that_a_tokenizer_takes_off_is_dropped_though_its_place_is_spanned() -> None:
    """BERT strips Mn: the vowel sign u goes, the token's span goes over it."""
    tokenizer = tokenizers.wordpiece("[UNK]", "कक")
    text = "कुक"
    pieces = tokenizer.pieces(text)
    assert [(p.shown, p.start, p.end) for p in pieces] == [("कक", 0, 3)]
    assert fates(text, pieces) == ["whole", "dropped", "whole"]
    assert fates("É", tokenizers.wordpiece("[UNK]", "e").pieces("É")) == ["whole"]


def test_special_tokens_that_a_model_adds_are_left_out_and_those_that_a_text_spells_counted(
    byte_level: Tokenizer,
) -> None:
    pieces = byte_level.pieces("a<|end|>")
    assert [piece.kind for piece in pieces] == ["text", "special"]
    assert counted(byte_level, Text("t", "a<|end|>"), pieces)["n_special"] == 1


def test_a_unigram_vocabulary_has_no_bytes_and_calls_other_scripts_unknown(
    unigram: Tokenizer,
) -> None:
    counts = counted(unigram, Text("t", MIXED), unigram.pieces(MIXED))
    assert counts["n_byte_tokens"] == 0
    assert counts["n_unread"] == len(MIXED.replace(" ", "")) - len("AI")
    exact = unigram.pieces("human rights")
    assert "".join(piece.token for piece in exact) == "▁human▁rights"


def test_a_unigram_vocabulary_with_bytes_spells_what_it_lacks() -> None:
    """The library gives bytes of neighbours one place, and the space put before a text one too."""
    tokenizer = tokenizers.unigram_fallback("▁", "a", "▁a")
    assert tokenizer.kind == "Unigram with byte fallback"
    assert fates("aम", tokenizer.pieces("aम")) == ["whole", "single_bytes"]
    pieces = tokenizer.pieces("मa मé")
    assert [piece.kind for piece in pieces].count("byte") == 3 + 3 + 2
    assert fates("मa मé", pieces) == [
        *("single_bytes", "whole", "whole", "single_bytes", "single_bytes")
    ]


def test_a_tokenizer_without_weights_is_enough_and_one_without_files_is_refused(
    tmp_path: Path, byte_level: Tokenizer
) -> None:
    folder, bare = tmp_path / "own", tmp_path / "bare"
    byte_level.hf.save_pretrained(folder)
    bare.mkdir()
    (found,), (facts,) = open_tokenizers([str(folder)])
    assert found.name == "own"
    assert (facts["kind"], facts["n_ctx"], facts["windows"]) == ("byte-level BPE", None, None)
    with pytest.raises(InputProblems) as caught:
        open_tokenizers([str(bare), "no-such-model", str(folder), str(folder)])
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == 3
    assert "no tokenizer" in said[0]
    assert not any("the input:" in one for one in said)
    assert "No model is called" in said[1]
    assert "two models are called own" in said[2]


@pytest.mark.parametrize("make", [tokenizers.wordpiece, tokenizers.fallback, tokenizers.unigram])
def test_the_unknown_is_the_vocabularys_where_settings_name_none(make: Any) -> None:
    """A tokenizer.json alone says which token stands for what it does not know."""
    pieces = {tokenizers.wordpiece: ["[UNK]", "a"], tokenizers.fallback: ["a"]}
    own = make(ENGLISH) if make is tokenizers.unigram else make(*pieces[make])
    core = own.hf.backend_tokenizer
    if make is tokenizers.fallback:  # without its bytes, so that there is an unknown
        core = Core(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>"))
    silent = tokenizers.wrapped(Core.from_str(core.to_str()))
    assert silent.hf.unk_token is None
    counts = counted(silent, Text("t", "a न"), silent.pieces("a न"))
    assert counts["n_unknown"] >= 1
    assert counts["n_unread"] == 1
    assert counts["decoded"].count("\ufffd") == counts["n_unknown"]


def test_what_is_taken_off_between_bytes_is_dropped_and_the_rest_is_bytes() -> None:
    """A joiner between characters that are spelt in bytes shares their place in the text."""
    tokenizer = tokenizers.unigram_fallback("▁", "a")
    tokenizer.hf.backend_tokenizer.normalizer = normalizers.Replace("\u200d", "")
    text = "aक\u200dखa"
    found = fates(text, tokenizer.pieces(text))
    assert found == ["whole", "single_bytes", "dropped", "single_bytes", "whole"]
    assert counted(tokenizer, Text("t", text), tokenizer.pieces(text))["n_unread"] == 1
