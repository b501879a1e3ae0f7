"""Tiny tokenizers of every kind, made with the tokenizers library."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lensbench.tokenisation.tokenizer import Tokenizer


def wrapped(core: Core, **special: str) -> Tokenizer:
    """As a model's."""
    return Tokenizer("tiny", PreTrainedTokenizerFast(tokenizer_object=core, **special))


def byte_level(texts: Sequence[str]) -> Tokenizer:
    """Byte-level BPE trained on some texts: 600 entries."""
    core = Core(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return wrapped(core, eos_token="<|end|>")


def wordpiece(*vocabulary: str) -> Tokenizer:
    """WordPiece that lower-cases and takes accents off, as BERT's."""
    entries = {token: i for i, token in enumerate(vocabulary)}
    core = Core(models.WordPiece(entries, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    return wrapped(core, unk_token="[UNK]")


def fallback(*characters: str) -> Tokenizer:
    """As SentencePiece's with byte fallback: some characters, no merges, and every byte."""
    names = ["<unk>", *characters, *(f"<0x{byte:02X}>" for byte in range(256))]
    entries = {token: i for i, token in enumerate(names)}
    core = Core(models.BPE(entries, [], unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return wrapped(core, unk_token="<unk>")


def unigram_fallback(*pieces: str) -> Tokenizer:
    """Unigram of some pieces and every byte; a space is put before each text."""
    names = [*pieces, *(f"<0x{byte:02X}>" for byte in range(256))]
    entries = [("<unk>", 0.0), *((name, -float(len(pieces))) for name in names)]
    core = Core(models.Unigram(entries, 0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return wrapped(core, unk_token="<unk>")


def unigram(texts: Sequence[str]) -> Tokenizer:
    """Unigram trained on some texts: 300 entries, no bytes."""
    core = Core(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    return wrapped(core, unk_token="<unk>")
