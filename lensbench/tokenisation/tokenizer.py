"""A model's tokenizer, without the model, and the pieces that it makes of a text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lensbench.checkpoints.hashes import added_tokens_sha256, tokenizer_sha256
from lensbench.checkpoints.open import open_tokenizer, quiet
from lensbench.checkpoints.source import locate
from lensbench.errors import InputProblems, LensbenchError, ModelError, Problem
from lensbench.tokenisation.packaged import PACKAGED
from lensbench.tokenisation.size import size_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a token stands for. `byte`: one byte, where the vocabulary has no more; `bytes`: several that
# are no whole characters.
PieceKind = Literal["text", "byte", "bytes", "unknown", "special"]
BYTE_KINDS = ("byte", "bytes")
WORDPIECE, UNIGRAM, BYTE_LEVEL, BPE = "WordPiece", "Unigram", "byte-level BPE", "BPE"
FALLBACK = " with byte fallback"
_FALLBACK_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_LONE_BYTE = re.compile("[\udc80-\udcff]")  # as Python decodes what is no UTF-8


class Piece(NamedTuple):
    """A token of a text: where it stands in it, in characters, and what it is.

    `shown` is readable: bytes of a byte-level vocabulary as the text they spell, and those that
    spell none alone as <0xE0>.
    """

    token_id: int
    token: str  # as in the vocabulary
    shown: str
    kind: PieceKind
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """The tokenizer of a model, by its name."""

    name: str
    hf: PreTrainedTokenizerBase

    @cached_property
    def kind(self) -> str:
        """How it was learnt and what it falls back on."""
        core = self.hf.backend_tokenizer
        learnt = type(core.model).__name__
        if learnt == "BPE" and any("ByteLevel" in _types(part) for part in _parts(core)):
            return BYTE_LEVEL
        return learnt + (FALLBACK if _falls_back(core.model) else "")

    @property
    def d_vocab(self) -> int:
        """Entries of the vocabulary, special ones included."""
        return len(self.hf)

    def pieces(self, text: str) -> list[Piece]:
        """The tokens of a text, without those that are put around it.

        Where each stands is what the tokenizers library says, white space as it counts it.
        """
        read = self.hf(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            truncation=False,
            verbose=False,
        )
        return [
            Piece(*self._read(token_id), start, end)
            for token_id, (start, end) in zip(read.input_ids, read.offset_mapping, strict=True)
        ]

    def shown(self, token_id: int) -> str:
        """A token as a `Piece` shows it."""
        return self._read(token_id)[2]

    def text(self, pieces: Sequence[Piece], unknown: str = "\ufffd") -> str:
        """What the tokenizer itself makes of the tokens again; an unknown one is `unknown`."""
        decoded = str(
            self.hf.decode(
                [piece.token_id for piece in pieces],
                skip_special_tokens=False,
                clean_up_tokenization_spaces=False,
            )
        )
        for token in {piece.token for piece in pieces if piece.kind == "unknown"}:
            decoded = decoded.replace(token, unknown)
        return decoded

    @cached_property
    def _read(self) -> Callable[[int], tuple[int, str, str, PieceKind]]:
        """From an id to it, the token, how that is shown and what it is."""
        return lru_cache(maxsize=None)(self._read_anew)

    def _read_anew(self, token_id: int) -> tuple[int, str, str, PieceKind]:
        token = str(self.hf.convert_ids_to_tokens(token_id))
        if self.kind == BYTE_LEVEL and token_id not in self._added_ids:
            return token_id, token, *_of_bytes(bytes(_ALPHABET[sign] for sign in token))
        return token_id, token, token, self._kind_of(token_id, token)

    def _kind_of(self, token_id: int, token: str) -> PieceKind:
        if token_id in self._unknown_ids:
            return "unknown"
        if token_id in self._special_ids:
            return "special"
        falls_back = FALLBACK in self.kind and _FALLBACK_TOKEN.fullmatch(token)
        return "byte" if falls_back else "text"

    @cached_property
    def _unknown_ids(self) -> frozenset[int]:
        """What its settings call the unknown, and what stands for it where they are silent.

        A byte-level vocabulary knows every text, whatever its settings say.
        """
        if self.kind == BYTE_LEVEL:
            return frozenset()
        named = {self.hf.unk_token_id, _unknown_id(self.hf.backend_tokenizer.model)}
        return frozenset(token_id for token_id in named if token_id is not None)

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.hf.all_special_ids)

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self.hf.added_tokens_decoder)


def _alphabet() -> dict[str, int]:
    """How byte-level vocabularies write bytes: sign -> byte (Radford et al. 2019, encoder.py).

    What Latin-1 prints stands for itself, and the rest for signs from U+0100 on.
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(0x100 + number): byte for number, byte in enumerate(others)
    }


_ALPHABET = _alphabet()


def _of_bytes(data: bytes) -> tuple[str, PieceKind]:
    """How bytes are shown, and whether they are whole characters."""
    text = data.decode("utf-8", "surrogateescape")
    shown = _LONE_BYTE.sub(lambda lone: f"<0x{ord(lone[0]) - 0xDC00:02X}>", text)
    if shown == text:
        return shown, "text"
    return shown, "byte" if len(data) == 1 else "bytes"


def _falls_back(model: Any) -> bool:
    """Whether a character that is not in the vocabulary is spelt in bytes.

    A Unigram model says so only where it is written down whole.
    """
    if hasattr(model, "byte_fallback"):
        return bool(model.byte_fallback)
    if model.token_to_id("<0x00>") is None:
        return False
    return bool(json.loads(model.__getstate__()).get("byte_fallback"))


def _unknown_id(model: Any) -> int | None:
    """The token that a vocabulary itself puts where it knows none; a Unigram model has its id."""
    if (token := getattr(model, "unk_token", None)) is not None:
        found: int | None = model.token_to_id(token)
        return found
    if hasattr(model, "unk_token"):
        return None
    own: int | None = json.loads(model.__getstate__()).get("unk_id")
    return own


def _parts(core: Any) -> list[Any]:
    return [part for part in (core.pre_tokenizer, core.decoder) if part is not None]


def _types(part: Any) -> set[str]:
    """The types of a part of a tokenizer and of the parts in it."""
    found: set[str] = set()
    json.loads(part.__getstate__(), object_hook=lambda one: found.add(str(one.get("type"))))
    return found


def open_tokenizers(names: Sequence[str]) -> tuple[list[Tokenizer], list[dict[str, Any]]]:
    """The tokenizers of some models, and facts of each for a manifest; no weights are read.

    Raises InputProblems with every model that is unknown, not here, has no tokenizer that can be
    read, or stands twice.
    """
    found: list[Tokenizer] = []
    facts: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for name in names:
        try:
            tokenizer, own = _opened(name)
        except InputProblems as error:
            problems += error.problems
            continue
        except LensbenchError as error:
            problems.append(Problem(f"model {name}", str(error).rstrip("."), ""))
            continue
        if tokenizer.name in [other.name for other in found]:
            what = f"two models are called {tokenizer.name}"
            problems.append(Problem(f"model {name}", what, "Name it once, or rename one folder."))
        found.append(tokenizer)
        facts.append(own)
    if problems:
        raise InputProblems(problems)
    return found, facts


def _opened(name: str) -> tuple[Tokenizer, dict[str, Any]]:
    if (packaged := PACKAGED.get(name)) is not None:
        folder, source, called = packaged.require_folder(), packaged.source, name
    else:
        located = locate(name)
        folder, source = located.require_tokenizer(), located.source
        called = located.public_name
    with quiet():
        hf = open_tokenizer(folder)
    if not getattr(hf, "is_fast", False):
        raise ModelError(f"{name}: its tokenizer does not say where in a text its tokens stand")
    tokenizer = Tokenizer(called, hf)
    facts = {
        "source": source,
        "kind": tokenizer.kind,
        "d_vocab": tokenizer.d_vocab,
        "tokenizer_sha256": tokenizer_sha256(folder),
        "added_tokens_sha256": added_tokens_sha256(folder),
    }
    return tokenizer, facts | size_of(folder)
