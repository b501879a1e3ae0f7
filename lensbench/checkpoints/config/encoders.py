"""Text encoders (BERT and its kin): models that read a text both ways and say no next token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lensbench.json_text import read_json

# Types whose attention was checked against the class's own (`output_attentions`).
ENCODERS = ("bert", "distilbert", "roberta", "electra")


def is_encoder(config: Any) -> bool:
    """Whether a config is of a known encoder. BERT's class can be a decoder too, if told to."""
    return config.model_type in ENCODERS and not getattr(config, "is_decoder", False)


def holds_encoder(folder: Path | None) -> bool:
    """Whether a model's folder is that of a known encoder, by its config.json alone.

    False where that cannot be read: whoever loads the model says what is wrong with it.
    """
    if folder is None:
        return False
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return False
    known = isinstance(config, dict) and config.get("model_type") in ENCODERS
    return known and not config.get("is_decoder", False)
