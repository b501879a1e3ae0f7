"""Text encoders (BERT and its kin): models that read a text both ways and say no next token."""

from __future__ import annotations

from typing import Any

# Types whose attention was checked against the class's own (`output_attentions`).
ENCODERS = ("bert", "distilbert", "roberta", "electra")


def is_encoder(config: Any) -> bool:
    """Whether a config is of a known encoder. BERT's class can be a decoder too, if told to."""
    return config.model_type in ENCODERS and not getattr(config, "is_decoder", False)
