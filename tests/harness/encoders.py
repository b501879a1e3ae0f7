"""Tiny random text encoders, one config per type, with BERT's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.harness.tiny_bert import bert_tokenizer

_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "electra": _BERT | {"embedding_size": 16},
    "distilbert": {
        "dim": 32,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 40,
        "initializer_range": 0.3,
        "pad_token_id": 0,
    },
}


def save_encoder(kind: str, folder: Path, masked: bool = False) -> Path:
    """Write an encoder into `folder`, as it is published: with a head for masked words or bare."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

    tokenizer = bert_tokenizer(folder)
    torch.manual_seed(7)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ENCODERS[kind])
    make = AutoModelForMaskedLM if masked else AutoModel
    make.from_config(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
