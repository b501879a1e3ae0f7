"""A tiny random embedding model of the real class: BERT with mean pooling, saved as MiniLM is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BertTokenizer

WORDS = (
    "river mountain gold silver city capital ocean desert forest winter summer music science "
    "history language number river house garden bread water stone paper engine planet"
)


def bert_tokenizer(folder: Path) -> BertTokenizer:
    """WordPiece in lower case, its vocabulary in `folder`: `WORDS`, and letters for the rest."""
    from transformers import BertTokenizer

    letters = [chr(c) for c in range(33, 127)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = (
        special + letters + [f"##{letter}" for letter in letters] + sorted(set(WORDS.split()))
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return BertTokenizer(str(folder / "vocab.txt"))


def save_bert(folder: Path, seed: int = 0) -> Path:
    """Write the model into `folder`. Another seed is another model."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    plain = folder / "plain"
    tokenizer = bert_tokenizer(plain)
    tokenizer.save_pretrained(plain)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).eval().save_pretrained(plain)
    whole = Transformer(str(plain), max_seq_length=32)
    pooling = Pooling(whole.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[whole, pooling, Normalize()], device="cpu")
    model.save(str(folder / "model"), safe_serialization=True)
    return folder / "model"
