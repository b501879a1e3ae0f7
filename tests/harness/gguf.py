"""A tiny model as llama.cpp stores one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, INNER = 32, 2, 4, 48
_ALPHABET = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
_ALPHABET += [chr(256 + i) for i in range(256 - len(_ALPHABET))]
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_ALPHABET, "Ġt", "Ġth", "ĊĊ"]
# A SentencePiece vocabulary, with the scores that say which pieces join first.
_BYTES = [f"<0x{i:02X}>" for i in range(256)]
PIECES = ["<unk>", "<s>", "</s>", *_BYTES, *"▁aThe", "▁a", "Th", "▁Th"]
_LLAMA = {
    "block_count": LAYERS,
    "context_length": 64,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.head_count_kv": HEADS,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10_000.0,
}
GEMMA3 = _LLAMA | {
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "attention.sliding_window": 16,
    "rope.freq_base": 1_000_000.0,
}


def write_tiny_gguf(
    path: Path,
    fields: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    without: Collection[str] = (),
    architecture: str = "llama",
    pre: str = "smollm",
    pieces: bool = False,
    more_tokens: Collection[str] = (),
) -> None:
    """A two-layer model with a byte-level tokenizer (or SentencePiece's), as llama.cpp stores one.

    `fields` are keys of the architecture, or whole names where they begin with a dot; `fields` and
    `tensors` come on top, `without` names tensors and keys that are left out.
    """
    writer = gguf.GGUFWriter(path, architecture)
    tokens = [*(PIECES if pieces else TOKENS), *more_tokens]
    base = (GEMMA3 if architecture == "gemma3" else _LLAMA) | {"vocab_size": len(tokens)}
    for key, value in (base | dict(fields or {})).items():
        if key not in without:
            _add(writer, key[1:] if key[0] == "." else f"{architecture}.{key}", value)
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    if pieces:
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
    else:
        writer.add_token_merges(["Ġ t", "Ġt h", "Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    weights_of = _weights(architecture, len(tokens)) | dict(tensors or {})
    for name, weights in weights_of.items():
        if name not in without:
            writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    kinds |= {str: writer.add_string, list: writer.add_array}
    kinds[type(value)](name, value)


def _weights(architecture: str, n_tokens: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (n_tokens, WIDTH)}
    shapes |= {"output_norm": (WIDTH,)}
    gemma = architecture == "gemma3"
    heads = HEADS * 256 if gemma else WIDTH
    norms = ("post_attention_norm", "post_ffw_norm") if gemma else ()
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm", *norms)}
        shapes |= {f"blk.{layer}.attn_{name}_norm": (256,) for name in "qk" if gemma}
        shapes |= {f"blk.{layer}.attn_{name}": (heads, WIDTH) for name in ("q", "k", "v")}
        shapes |= {f"blk.{layer}.attn_output": (WIDTH, heads)}
        shapes |= {f"blk.{layer}.ffn_{name}": (INNER, WIDTH) for name in ("gate", "up")}
        shapes |= {f"blk.{layer}.ffn_down": (WIDTH, INNER)}
    found = {}
    for name, shape in shapes.items():
        weights = random.standard_normal(shape, dtype=np.float32)
        found[f"{name}.weight"] = weights if len(shape) == 1 else weights / 8
    return found
