"""What a config says of a model's size, under whichever name its family says it."""

from __future__ import annotations

import logging
from typing import Any

from lensbench.errors import ModelError

_BLOCKS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "decoder_layers")
_WIDTH = ("hidden_size", "d_model", "n_embd", "dim")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")
# Types that count positions from behind padding's, as RoBERTa does: rows before stand for no token.
_BEHIND_PADDING = {"camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet"}
_BEHIND_PADDING |= {f"{own}roberta{more}" for own in ("", "xlm-") for more in ("", "-xl")}
_BEHIND_PADDING |= {"roberta-prelayernorm", "xmod"}
# Of blocks that look back so many tokens, or at so many chosen ones, under other names.
_REACH = [
    "sliding_window_size",
    "attention_window_size",
    "attention_chunk_size",
    "keep_window_size",
]
NO_LIMIT = 1 << 30  # tokens: more than any memory holds

_log = logging.getLogger(__name__)


def n_blocks(config: Any) -> int:
    """Number of blocks. Raises ModelError where the config names none."""
    return _required(_text(config), _BLOCKS, "number of blocks")


def width(config: Any) -> int:
    """Width of the residual stream. Raises ModelError where the config names none."""
    return _required(_text(config), _WIDTH, "width")


def context_length(config: Any) -> int:
    """Tokens that prompt and response may take together.

    `NO_LIMIT` where positions have no table and no trained bound: ALiBi (BLOOM), state spaces.
    No more than `keys_chosen`.
    """
    found = _named(_text(config), _CONTEXT)
    return min(NO_LIMIT if found is None else found, keys_chosen(config) or NO_LIMIT)


def keys_chosen(config: Any) -> int | None:
    """How many tokens a query attends to where a class ranks them by a score; None: it does not.

    DeepSeek's sparse attention cuts its scores off at 0, so that many of them are equal, and which
    of those are among the first depends on the shape of a pass: padding and a cache give the same
    text other probabilities, by whole bits. A text of so many tokens has all of them chosen.
    """
    found = getattr(_text(config), "index_topk", None)
    return found if isinstance(found, int) else None


def say_keys_chosen(name: str, config: Any) -> None:
    """Note that a model's texts are held to fewer tokens than its context has."""
    if (n := keys_chosen(config)) is not None:
        _log.info(
            "%s: each of its tokens attends to the %s that it ranks highest; beyond them equal "
            "scores would be told apart by chance, so its context is held to %s tokens",
            name,
            f"{n:,}",
            f"{n:,}",
        )


def table_context(config: Any) -> int | None:
    """Tokens that a table of positions has room for; None where the config names no such size."""
    longest: int | None = getattr(config, "max_position_embeddings", None)
    if longest is not None and config.model_type in _BEHIND_PADDING:
        return longest - int(config.pad_token_id) - 1
    return longest


def rope_switch(config: Any) -> int | None:
    """Tokens beyond which all positions of a sequence are rotated by other frequencies.

    LongRoPE (Phi-3's long contexts) has two sets of them and goes by the longest sequence of a
    batch, so a short prompt beside a long one would be read as another model reads it. None where
    frequencies stay what they are.
    """
    text = _text(config)
    rope = getattr(text, "rope_parameters", None) or {}
    parts = [own for own in rope.values() if isinstance(own, dict)] or [rope]
    for part in parts:
        if part.get("rope_type") == "longrope":
            own = part.get("original_max_position_embeddings")
            return int(own or text.original_max_position_embeddings)
    return None


def attention_windows(config: Any) -> list[int | None]:
    """For each block, how many tokens a query may look at, itself among them; None: all before it.

    Newer configs name each block's kind in `layer_types`; Mistral's one window is of all blocks.
    """
    text, n = _text(config), n_blocks(config)
    if kinds := getattr(text, "attention_layers", None):  # GPT-Neo
        return [text.window_size if kind == "local" else None for kind in kinds]
    window = getattr(text, "sliding_window", None)
    if window is None or not getattr(text, "use_sliding_window", True):
        return [None] * n
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"] * n
    return [int(window) if kind == "sliding_attention" else None for kind in kinds]


def attention_reach(config: Any) -> int | None:
    """Tokens of the shortest text of which some block no longer looks at all, less one.

    A sliding window, a chunk, or so many keys chosen by a score; None: every block sees all.
    """
    found = [window for window in attention_windows(config) if window is not None]
    found += [size for name in _REACH if (size := _named(_text(config), (name,))) is not None]
    return min(found, default=None)


def _text(config: Any) -> Any:
    """The language model's own part of the config, which some families nest."""
    return config.get_text_config(decoder=True)


def per_layer(config: Any, name: str) -> int | None:
    """A number of the text model, the largest where its layers differ; None where there is none."""
    text = _text(config)
    layers = getattr(text, "per_layer_config", None)
    n_layers = n_blocks(config)
    each = [layers[block] for block in range(n_layers)] if layers else [text]
    values = [getattr(one, name, None) for one in each]
    return max((value for value in values if isinstance(value, int)), default=None)


def _required(text: Any, names: tuple[str, ...], what: str) -> int:
    found = _named(text, names)
    if found is None:
        kind = text.model_type
        raise ModelError(
            f"The config of a {kind} names no {what} ({', '.join(names)}), so lensbench cannot "
            "tell its blocks. Use a decoder-only text model (`lensbench models`)."
        )
    return found


def _named(text: Any, names: tuple[str, ...]) -> int | None:
    values = (getattr(text, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), None)
