"""What a config.json says of a model's context and attention: what tokens cost there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensbench.checkpoints.config.shape import attention_windows, table_context
from lensbench.checkpoints.open import quiet, whole_config
from lensbench.checkpoints.source import gguf_file

_KEYS = ("n_ctx", "attention_width", "windows")
_QUADRATIC = {"full_attention", "sliding_attention"}  # kinds of blocks, where a config names them


def size_of(folder: Path) -> dict[str, Any]:
    """Context in tokens, width of attention (heads times their size) and each block's window.

    A window is None where a block has none. Entries are None for a folder without config.json,
    where the config does not say it, and for attention that does not grow with the square of a text
    in every block (state spaces, linear attention, chunks). Raises ModelError for a config.json
    that cannot be read.
    """
    if gguf_file(folder) is not None or not (folder / "config.json").is_file():
        return dict.fromkeys(_KEYS)
    with quiet():
        config = whole_config(folder).get_text_config()
    width, windows = _attention(config)
    return {"n_ctx": table_context(config), "attention_width": width, "windows": windows}


def _attention(config: Any) -> tuple[int | None, list[int | None] | None]:
    """Width and windows; None where the config does not say them, or not all of it is softmax's."""
    names = ("num_hidden_layers", "num_attention_heads", "hidden_size")
    blocks, heads, d_model = (getattr(config, name, None) for name in names)
    if not (isinstance(blocks, int) and isinstance(heads, int) and isinstance(d_model, int)):
        return None, None
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or []
    if not {*kinds} <= _QUADRATIC:
        return None, None
    each = int(getattr(config, "head_dim", None) or d_model // heads)
    if latent := getattr(config, "qk_nope_head_dim", None):  # queries and values of other widths
        each = (int(latent) + int(config.qk_rope_head_dim) + int(config.v_head_dim)) // 2
    return heads * each, attention_windows(config)


def attention_flops(n_tokens: int, facts: Mapping[str, Any]) -> float | None:
    """What of a forward pass grows with the square of a text, in FLOPs.

    Queries times keys and weights times values: 4 · n · min(n, window) · width, summed over blocks
    (two products, 2 FLOPs for a multiplication with its addition; masked pairs count, as dense
    attention computes them). None where the config does not say how wide attention is.
    """
    width, windows = facts["attention_width"], facts["windows"]
    if width is None:
        return None
    spans = [n_tokens if window is None else min(n_tokens, window) for window in windows]
    return float(4 * n_tokens * width * sum(spans))
