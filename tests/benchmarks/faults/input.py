"""Inputs that are damaged or hostile: read, or refused with a sentence; never a traceback."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensbench.checkpoints.config.check import check_config
from lensbench.cli.console import literal
from lensbench.errors import LensbenchError, Problem
from lensbench.prompts.sets import load_prompts
from lensbench.quantized.adapters.adapter import read_config
from lensbench.quantized.data.pairs import read_pairs
from lensbench.quantized.rag.documents import Document, Reading, read_documents
from lensbench.records.open import open_record
from lensbench.records.validation.told import read_told
from lensbench.studies.analysis import read_analysis
from tests.benchmarks.faults.strangers import OF_ADAPTERS, SPOILT, Spoil, load, load_adapter
from tests.harness.damaged_records import cut, damaged_copies, flip, read_all
from tests.harness.forks import Forks
from tests.harness.tiny import TINY, save

MOST_S = 60
MOST_BYTES = 2 << 30

# Control characters and those that reorder or hide text.
_OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
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
    worst_bytes: int = 0  # of memory, of what was read in processes of their own

    def one(self, call: Callable[[], object]) -> None:
        """Read one input."""
        start = time.monotonic()
        self.times += 1
        try:
            call()
            self.read += 1
        except LensbenchError as error:
            self.refused += 1
            if hidden := _OBEYED.search(literal(error)):
                self.other[f"a terminal would obey {hidden[0]!r}"] += 1
        except Exception as error:  # noqa: BLE001  counted, whatever it is
            self.other[f"{type(error).__name__}: {str(error)[:80]}"] += 1
        self.worst_s = max(self.worst_s, time.monotonic() - start)

    def apart(self, name: str, forks: Forks, call: Callable[..., object], *arguments: Any) -> None:
        """Read one input in a process of its own."""
        start = time.monotonic()
        self.times += 1
        ended = forks.run(call, *arguments, seconds=MOST_S)
        self.read += ended.status == 0
        self.refused += ended.status == 2
        if ended.status not in (0, 2):
            self.other[f"{name}: {(ended.said.splitlines() or [str(ended.status)])[-1][:80]}"] += 1
        self.worst_s = max(self.worst_s, time.monotonic() - start)
        self.worst_bytes = max(self.worst_bytes, ended.peak_bytes)


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


TOLD = json.dumps(
    {
        "model": {"name": "theirs", "n_layers": 3, "d_vocab": 384},
        "lenses": {
            "final": {
                "norm": "final",
                "fitted": False,
                "soft_cap": True,
                "kl": "model_lens",
                "output": True,
            }
        },
        "measured": {"tool": "their-tool", "version": "2.1", "by": "A. Person"},
    }
).encode()
DOCUMENTS = b'id,question,answer\n1,What is it?,"It, too, is"\n2,Who?,Me\n'
MARKDOWN = b"# One\n\nA heap keeps its least item first.\n\n## Two\n\n- a\n- b\n"


def fuzzed(times: int, record: Path, room: Path, seed: int) -> Iterator[Read]:
    """Each kind of text that a user writes or is sent, changed at random."""
    manifest = (record / "manifest.json").read_bytes()
    config = (save(TINY["llama"], room / "fuzzed-config") / "config.json").read_bytes()
    kinds: list[tuple[str, str, bytes, Callable[[Path], Any]]] = [
        ("prompt set, CSV", "set.csv", PROMPT_CSV, load_prompts),
        ("prompt set, JSONL", "set.jsonl", PROMPT_JSONL, load_prompts),
        ("instruction pairs", "pairs.jsonl", PAIRS, read_pairs),
        ("analysis.toml", "analysis.toml", ANALYSIS, read_analysis),
        ("adapter_config.json", "adapter_config.json", ADAPTER, lambda p: read_config(p.parent)),
        ("config.json", "config.json", config, check_config),
        ("manifest.json", "manifest.json", manifest, lambda p: open_record(p.parent)),
        ("manifest of another tool", "told.json", TOLD, read_told),
        ("documents, CSV", "documents.csv", DOCUMENTS, _documents),
        ("documents, Markdown", "documents.md", MARKDOWN, _documents),
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


def _documents(path: Path) -> list[Document]:
    problems: list[Problem] = []
    return read_documents([path], Reading(len, 200), problems)


def damaged(times: int, record: Path, room: Path, seed: int) -> Read:
    """A record with a bit flipped or an end cut off; what is `read` reads as it did before."""
    counted, whole = Read("a record, one bit flipped or its end cut off"), read_all(record)
    for copy, _ in damaged_copies(record, room, [flip, cut], times, seed):

        def unchanged(copy: Path = copy) -> None:
            assert read_all(copy) == whole, "other numbers were read"

        counted.one(unchanged)
    return counted


def strangers(room: Path, forks: Forks, spoilt: Mapping[str, Spoil] = SPOILT) -> Read:
    """Folders from somebody else, each loaded in a process of its own; see `SPOILT`."""
    counted = Read("models and adapters from strangers")
    for i, (name, spoil) in enumerate(spoilt.items()):
        folder = save(TINY["llama"], room / "strangers" / str(i))
        (folder / "adapter_config.json").write_bytes(ADAPTER)
        spoil(folder)
        whole = (load_adapter,) if name in OF_ADAPTERS else (load,)
        for call in (*whole, load_adapter) if name.startswith("safetensors") else whole:
            counted.apart(name, forks, call, folder)
        shutil.rmtree(folder, ignore_errors=True)
    return counted
