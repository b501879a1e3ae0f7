"""Folders from somebody else: headers that lie, counts without end, JSON bombs, links and pipes.

Each is a tiny checkpoint with one thing spoilt. It is loaded as a model and as an adapter, in a
process whose time and memory are measured.
"""

from __future__ import annotations

import json
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.harness.gguf import write_tiny_gguf

Spoil = Callable[[Path], object]
_DEEP = "[" * 200_000 + "]" * 200_000
_DIGITS = "9" * 1_000_000
_ENTRIES = '{"": [' + "{}," * 20_000_000 + "{}]}"  # 60 MB


def _config(**fields: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


def _text(name: str, text: str) -> Spoil:
    return lambda folder: (folder / name).write_text(text)


def _added(name: str, entry: str) -> Spoil:
    """One more entry at the end of a JSON object."""

    def spoil(folder: Path) -> None:
        path = folder / name
        said = path.read_text().rstrip().removesuffix("}").rstrip() if path.exists() else "{"
        path.write_text(f"{said}{'' if said == '{' else ','}{entry}}}")

    return spoil


def _pipe(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def _link(name: str, to: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(to)

    return spoil


def _index(file: Any) -> Spoil:
    """All tensors are in another file, the index says."""

    def spoil(folder: Path) -> None:
        from safetensors import safe_open

        with safe_open(folder / "model.safetensors", "pt") as weights:
            found = dict.fromkeys(weights.keys(), file)
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": found}))

    return spoil


def _weights(header: bytes, length: int | None = None) -> Spoil:
    size = len(header) if length is None else length

    def spoil(folder: Path) -> None:
        for name in ("model.safetensors", "adapter_model.safetensors"):
            (folder / name).write_bytes(struct.pack("<Q", size) + header + bytes(64))

    return spoil


def _entries(**tensors: tuple[Any, Any, Any]) -> Spoil:
    said = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        for name, (dtype, shape, offsets) in tensors.items()
    }
    return _weights(json.dumps(said).encode())


def _gguf(*pieces: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        _clear(folder)
        (folder / "model.gguf").write_bytes(b"".join(pieces))

    return spoil


def _written(**how: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        _clear(folder)
        write_tiny_gguf(folder / "model.gguf", **how)

    return spoil


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _said(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _head(n_tensors: int, n_keys: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys)


def _array(kind: int, count: int) -> bytes:
    return _said("a") + struct.pack("<IIQ", 9, kind, count)


_LLAMA = _said("general.architecture") + struct.pack("<I", 8) + _said("llama")

SPOILT: dict[str, Spoil] = {
    "safetensors: endless header": _weights(b"{}", 2**62),
    "safetensors: header of 2 GiB": _weights(b"{}", 2**31),
    "safetensors: deep header": _weights(b"{" * 100_000),
    "safetensors: header of nothing": _weights(_ENTRIES.encode()),
    "safetensors: huge shape": _entries(a=("F32", [2**40, 2**20], [0, 64])),
    "safetensors: shape that overflows": _entries(a=("F32", [2**63, 2], [0, 64])),
    "safetensors: huge offset": _entries(a=("F32", [16], [0, 2**50])),
    "safetensors: negative offset": _entries(a=("F32", [16], [-64, 64])),
    "safetensors: offsets the wrong way round": _entries(a=("F32", [16], [64, 0])),
    "safetensors: overlap": _entries(a=("F32", [16], [0, 64]), b=("F32", [16], [0, 64])),
    "safetensors: a gap": _entries(a=("F32", [1], [0, 4]), b=("F32", [1], [60, 64])),
    "safetensors: negative shape": _entries(a=("F32", [-1], [0, 64])),
    "safetensors: shape of text": _entries(a=("F32", "16", [0, 64])),
    "safetensors: unknown numbers": _entries(a=("F99", [16], [0, 64])),
    "safetensors: no offsets": _weights(b'{"a": {"dtype": "F32"}}'),
    "safetensors: no UTF-8": _weights(b"\xff\xfe{}"),
    "safetensors: a list": _weights(b"[]"),
    "safetensors: a pipe": _pipe("model.safetensors"),
    "safetensors: a device": _link("model.safetensors", "/dev/zero"),
    "safetensors: a link out": _link("model.safetensors", "/etc/passwd"),
    "index: a file above": _index("../outside.safetensors"),
    "index: a file elsewhere": _index("/etc/passwd"),
    "index: a number": _index(1),
    "index: nothing": _text("model.safetensors.index.json", '{"weight_map": {}}'),
    "index: deep": _text("model.safetensors.index.json", _DEEP),
    "index: a list": _text("model.safetensors.index.json", "[]"),
    "config: deep": _added("config.json", f'"x": {_DEEP}'),
    "config: a million digits": _added("config.json", f'"vocab_size": {_DIGITS}'),
    "config: a key twice": _added("config.json", '"num_hidden_layers": 2'),
    "config: 60 MB of nothing": _text("config.json", _ENTRIES),
    "config: a pipe": _pipe("config.json"),
    "config: a device": _link("config.json", "/dev/zero"),
    "config: a link out": _link("config.json", "/etc/passwd"),
    "config: 1e9 blocks": _config(num_hidden_layers=10**9),
    "config: 1e5 blocks": _config(num_hidden_layers=10**5),
    "config: blocks in words": _config(num_hidden_layers="3"),
    "config: 1e8 labels": _config(num_labels=10**8),
    "config: vocabulary of 1e30": _config(vocab_size=10**30),
    "config: no vocabulary": _config(vocab_size=0),
    "config: width of 1e12": _config(hidden_size=10**12),
    "config: no heads": _config(num_attention_heads=0),
    "config: unknown activation": _config(hidden_act="__import__"),
    "config: unknown numbers": _config(dtype="float999"),
    "config: a path for a type": _config(model_type="../../x"),
    "config: a text for a rate": _config(rms_norm_eps="<script>"),
    "config: padding outside": _config(pad_token_id=10**12),
    "tokenizer: deep": _added("tokenizer.json", f'"x": {_DEEP}'),
    "tokenizer: a list": _text("tokenizer.json", "[]"),
    "tokenizer: empty": _text("tokenizer.json", ""),
    "tokenizer: another kind": _text("tokenizer.json", '{"model": {"type": "Nope"}}'),
    "tokenizer: a pipe": _pipe("tokenizer.json"),
    "tokenizer: a device": _link("tokenizer.json", "/dev/zero"),
    "tokenizer settings: deep": _added("tokenizer_config.json", f'"x": {_DEEP}'),
    "tokenizer settings: a list": _text("tokenizer_config.json", "[]"),
    "tokenizer settings: digits": _added("tokenizer_config.json", f'"model_max_length": {_DIGITS}'),
    "special tokens: deep": _text("special_tokens_map.json", f'{{"x": {_DEEP}}}'),
    "generation: deep": _text("generation_config.json", f'{{"x": {_DEEP}}}'),
    "generation: a list": _text("generation_config.json", "[]"),
    "gguf: 2^60 tensors": _gguf(_head(2**60, 0), bytes(32)),
    "gguf: 2^60 keys": _gguf(_head(0, 2**60), bytes(32)),
    "gguf: endless text": _gguf(_head(0, 1), struct.pack("<Q", 2**62), b"abc"),
    "gguf: text of negative length": _gguf(_head(0, 2), _LLAMA, struct.pack("<Q", 2**64 - 8)),
    "gguf: endless list": _gguf(_head(0, 2), _LLAMA, _array(0, 2**40)),
    "gguf: endless list of texts": _gguf(_head(0, 2), _LLAMA, _array(8, 2**62)),
    "gguf: lists in lists": _gguf(
        _head(0, 1), _said("a"), struct.pack("<I", 9), struct.pack("<IQ", 9, 1) * 100_000
    ),
    "gguf: 2^32 dimensions": _gguf(_head(1, 1), _LLAMA, _said("w"), struct.pack("<I", 2**32 - 1)),
    "gguf: a number for a name": _gguf(
        _head(0, 1), _said("general.architecture"), struct.pack("<II", 4, 7)
    ),
    "gguf: unknown version": _gguf(_head(0, 0, 2**32 - 1)),
    "gguf: empty": _gguf(),
    "gguf: 2^31 blocks": _written(fields={"block_count": 2**31 - 1}),
    "gguf: width of 2^31": _written(fields={"embedding_length": 2**31 - 1}),
    "gguf: no heads": _written(fields={"attention.head_count": 0}),
    "gguf: a text for a number": _written(fields={"rope.freq_base": "x"}),
    "adapter: deep": _text("adapter_config.json", f'{{"x": {_DEEP}}}'),
    "adapter: a list of pairs": _text("adapter_config.json", '[["peft_type", "LORA"]]'),
    "adapter: a device": _link("adapter_config.json", "/dev/zero"),
}
# What a model does not read, and what an adapter does not.
OF_ADAPTERS = tuple(name for name in SPOILT if name.startswith("adapter"))


def load(folder: Path) -> None:
    """A model from somebody else."""
    from lensbench.models.load import load_model

    logging.getLogger("lensbench").setLevel(logging.ERROR)  # an adapter lies beside each
    load_model(folder, device="cpu")


def load_adapter(folder: Path) -> None:
    """An adapter from somebody else."""
    from lensbench.quantized.adapters.adapter import read_config, read_weights

    read_config(folder)
    read_weights(folder)
