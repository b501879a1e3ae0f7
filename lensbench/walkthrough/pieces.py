"""The first step: a text as the pieces of a tokenizer, and every piece that it has."""

from __future__ import annotations

from lensbench.models.model import LensModel
from lensbench.prompts.encode import EncodedPrompt, TokenText
from lensbench.prompts.words import Span, token_spans
from lensbench.report.walk.numbers import Token
from lensbench.tokenisation.tokenizer import Tokenizer

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
    spans = token_spans(model.tokenizer, encoded.text, encoded.token_ids)
    spelled = model.tokenizer.convert_ids_to_tokens(list(encoded.token_ids))
    return [
        Token(token_id, str(spelling), names(token_id), *_place(span))
        for token_id, spelling, span in zip(encoded.token_ids, spelled, spans, strict=True)
    ]


def _place(span: Span) -> tuple[int, int] | tuple[None, None]:
    """Where a token stands; None of one that stands for no text."""
    return span if span.start < span.end else (None, None)
