"""Inputs that are damaged or hostile: read, or refused with a sentence; never a traceback."""

from __future__ import annotations

import json
import random
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensbench.errors import LensbenchError
from lensbench.models.load import load_model
from lensbench.prompts.sets import load_prompts
from lensbench.quantized.adapters.adapter import read_config, read_weights
from lensbench.quantized.data.pairs import read_pairs
from lensbench.records.open import open_record
from lensbench.studies.analysis import read_analysis
from tests.harness.damaged_records import cut, damaged_copies, flip, read_all
from tests.harness.tiny import TINY, save

# What a byte or a piece of an input is exchanged for.
_PIECES = (
    *(b"", b"\0", b"\xff\xfe", b'"', b"'", b",", b"\n", b"\r", b"{", b"}", b"[" * 2000, b"]"),
    *(b"null", b"true", b"NaN", b"-1", b"1e999", b"9" * 400, b"\xed\xa0\x80", b"=cmd|' /C'!A0"),
    *(b"<script>alert(1)</script>", b"\x1b[2J", "\u202e".encode(), b"a" * 100_000),
)


@dataclass
class Read:
    """What became of inputs of a kind, and the errors that are not lensbench's own."""

    what: str
    times: int = 0
    read: int = 0
    refused: int = 0
    other: Counter[str] = field(default_factory=Counter)
    worst_s: float = 0.0

    def one(self, call: Callable[[], object]) -> None:
        """Read one input."""
        start = time.monotonic()
        self.times += 1
        try:
            call()
            self.read += 1
        except LensbenchError:
            self.refused += 1
        except Exception as error:  # noqa: BLE001  counted, whatever it is
            self.other[f"{type(error).__name__}: {str(error)[:80]}"] += 1
        self.worst_s = max(self.worst_s, time.monotonic() - start)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four places cut, doubled, flipped or exchanged."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        end = min(at + chance.choice([0, 1, 1, 4, 40]), len(changed))
        piece = chance.choice([chance.choice(_PIECES), bytes(changed[at:end]) * 2])
        changed[at:end] = piece
    return bytes(changed)


PROMPT_CSV = b'id,relation,prompt,answer\n1,a,Rome is,Italy\n2,b,"Berlin, too, is",Germany\n'
PROMPT_JSONL = b'{"id": 1, "prompt": "Rome is", "answer": "Italy"}\n{"id": 2, "prompt": "x"}\n'
PAIRS = b'{"id": "1", "instruction": "Rome?", "response": "Italy"}\n{"id": "2", "messages": []}\n'
ANALYSIS = b'kind = "lens"\nmodels = ["smollm2-135m"]\nprompts = "facts"\nlimit = 3\n'
ADAPTER = json.dumps(
    {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
).encode()


def fuzzed(times: int, record: Path, room: Path, seed: int) -> Iterator[Read]:
    """Each kind of text that a user writes or is sent, changed at random."""
    manifest = (record / "manifest.json").read_bytes()
    kinds: list[tuple[str, str, bytes, Callable[[Path], Any]]] = [
        ("prompt set, CSV", "set.csv", PROMPT_CSV, load_prompts),
        ("prompt set, JSONL", "set.jsonl", PROMPT_JSONL, load_prompts),
        ("instruction pairs", "pairs.jsonl", PAIRS, read_pairs),
        ("analysis.toml", "analysis.toml", ANALYSIS, read_analysis),
        ("adapter_config.json", "adapter_config.json", ADAPTER, lambda p: read_config(p.parent)),
        ("manifest.json", "manifest.json", manifest, lambda p: open_record(p.parent)),
    ]
    chance = random.Random(seed)
    for what, name, content, reader in kinds:
        counted = Read(what)
        folder = Path(shutil.copytree(record, room / f"fuzz-{name}"))
        for _ in range(times // len(kinds)):
            path = folder / name
            path.write_bytes(mutated(content, chance))
            counted.one(lambda path=path, reader=reader: reader(path))
        yield counted


def damaged(times: int, record: Path, room: Path, seed: int) -> Read:
    """A record with a bit flipped or an end cut off; what is `read` reads as it did before."""
    counted, whole = Read("a record, one bit flipped or its end cut off"), read_all(record)
    for copy, _ in damaged_copies(record, room, [flip, cut], times, seed):

        def unchanged(copy: Path = copy) -> None:
            assert read_all(copy) == whole, "other numbers were read"

        counted.one(unchanged)
    return counted


def strangers(room: Path) -> Read:
    """Weights from somebody else: headers that lie, counts that do not end, links out."""
    counted = Read("weights from strangers")
    for i, spoil in enumerate(_SPOILT):
        folder = save(TINY["llama"], room / f"stranger-{i}")
        spoil(folder)
        counted.one(lambda folder=folder: load_model(folder, device="cpu"))
        counted.one(lambda folder=folder: read_weights(folder))
    return counted


def _weights(folder: Path, header: bytes, length: int | None = None) -> None:
    size = len(header) if length is None else length
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", size) + header + bytes(64))
    (folder / "adapter_model.safetensors").write_bytes(path.read_bytes())


def _entry(dtype: str, shape: list[int], offsets: list[int]) -> bytes:
    about = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return json.dumps({"model.embed_tokens.weight": about}).encode()


def _gguf(folder: Path, n_tensors: int, n_keys: int) -> None:
    (folder / "model.safetensors").unlink()
    head = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys)
    (folder / "model.gguf").write_bytes(head + bytes(32))


def _link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/passwd")


_SPOILT: tuple[Callable[[Path], None], ...] = (
    lambda folder: _weights(folder, b"{}", 2**62),
    lambda folder: _weights(folder, b"{}", 2**31),
    lambda folder: _weights(folder, b"{" * 100_000),
    lambda folder: _weights(folder, _entry("F32", [2**40, 2**20], [0, 64])),
    lambda folder: _weights(folder, _entry("F32", [16], [0, 2**50])),
    lambda folder: _weights(folder, _entry("F32", [-1], [0, 64])),
    lambda folder: _weights(folder, _entry("F99", [16], [0, 64])),
    lambda folder: _weights(folder, b'{"a": {"dtype": "F32"}}'),
    lambda folder: _weights(folder, b"\xff\xfe{}"),
    lambda folder: _gguf(folder, 2**60, 0),
    lambda folder: _gguf(folder, 0, 2**60),
    lambda folder: _gguf(folder, 1, 1),
    _link,
)
