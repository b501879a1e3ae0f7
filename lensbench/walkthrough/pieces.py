"""The first step: a text as the pieces of a tokenizer, and every piece that it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lensbench.models.model import LensModel
from lensbench.prompts.encode import EncodedPrompt, TokenText
from lensbench.report.walk.numbers import Token
from lensbench.tokenisation.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Place = tuple[int, int]
_LOST = "\ufffd"  # what decoding makes of bytes that are no character


class Names:
    """Every token as a reader sees it: the text that it adds, or the bytes that are none alone."""

    def __init__(self, model: LensModel) -> None:
        self._text = TokenText(model.tokenizer)
        fast = getattr(model.tokenizer, "is_fast", False)
        self._tokenizer = Tokenizer(model.name, model.tokenizer) if fast else None
        self._known = len(model.tokenizer)
        self.kind = self._tokenizer.kind if self._tokenizer else type(model.tokenizer).__name__

    def __call__(self, token_id: int) -> str:
        """The name of one token; a model may have more rows than its tokenizer has tokens."""
        text = self._text(token_id)
        if _LOST not in text or self._tokenizer is None or token_id >= self._known:
            return text
        return self._tokenizer.shown(token_id)


def text_tokens(model: LensModel, encoded: EncodedPrompt, names: Names) -> list[Token]:
    """The tokens that the model reads, with where each stands in the text."""
    places = _places(model.tokenizer, encoded)
    spelled = model.tokenizer.convert_ids_to_tokens(list(encoded.token_ids))
    return [
        Token(token_id, str(spelling), names(token_id), *(place or (None, None)))
        for token_id, spelling, place in zip(encoded.token_ids, spelled, places, strict=True)
    ]


def _places(tokenizer: PreTrainedTokenizerBase, encoded: EncodedPrompt) -> Sequence[Place | None]:
    """Where each token stands, as the tokenizers library says it; None of what is put around."""
    unknown = [None] * len(encoded.token_ids)
    if not getattr(tokenizer, "is_fast", False):
        return unknown
    read = tokenizer(encoded.text, return_offsets_mapping=True, return_special_tokens_mask=True)
    n = len(encoded.token_ids)
    if tuple(read.input_ids[:n]) != encoded.token_ids:
        return unknown
    kinds = zip(read.offset_mapping[:n], read.special_tokens_mask[:n], strict=True)
    return [None if special else (start, end) for (start, end), special in kinds]
