"""Stand-ins that let the README's commands run word for word in seconds.

The demo models' names lead to tiny random checkpoints with as many layers as the real ones, the
shipped prompts are a few of themselves, and Python's standard library is a few modules of itself.
"""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lensbench.checkpoints.families import family_for_alias
from lensbench.checkpoints.source import PROVENANCE
from lensbench.pico.spec import PRESETS
from lensbench.prompts import sets
from lensbench.quantized.data import sources, stdlib
from lensbench.quantized.data.shipped import general_pairs
from tests.harness.files import write_csv
from tests.harness.tiny import TINY, save, tokenizer

MODELS = {"smollm2-135m": "llama3", "gemma3-270m": "gemma3_text"}
KEPT = {"facts": 60, "general": 24, "python": 24}  # rows of each shipped set
MODULES = ("abc", "timeit", "asyncio.runners", "glob", "netrc", "getpass")  # for every split


def write_models(cache: Path) -> None:
    """Tiny models where `lensbench pull` puts the demo models; they say little before they stop."""
    for alias, name in MODELS.items():
        family = family_for_alias(alias)
        assert family is not None
        folder = save(
            TINY[name],
            cache / "models" / alias,
            {"num_hidden_layers": family.n_layers, "max_position_embeddings": 2048}
            | ({"layer_types": ["full_attention"] * family.n_layers} if "gemma" in name else {}),
        )
        # Every word can be said byte by byte: an answer without a token would be skipped.
        tokenizer("bytes+bos").save_pretrained(folder)
        (folder / PROVENANCE).write_text(
            json.dumps({"gguf_sha256": family.gguf_sha256, "conversion": family.conversion})
        )
        ends = {"eos_token_id": list(range(2, 384, 2))}
        (folder / "generation_config.json").write_text(json.dumps(ends))


def write_inputs(folder: Path) -> None:
    """What the README calls prompts.csv, faq.csv and manual.md."""
    asked = ("What is a heap?", "Who wrote it?", "Where does the Rhine flow?", "Is gold heavy?")
    rows = [{"id": f"q{i}", "prompt": text} for i, text in enumerate(asked)]
    write_csv(folder / "prompts.csv", rows)
    answers = ("A tree in an array.", "A person.", "Through Germany.", "Yes, very.")
    rows = [
        {"id": f"f{i}", "question": question, "answer": answer}
        for i, (question, answer) in enumerate(zip(asked, answers, strict=True))
    ]
    write_csv(folder / "faq.csv", rows)
    manual = "# Manual\n\nA heap keeps its least item first.\n\n## Rivers\n\nThe Rhine is long.\n"
    (folder / "manual.md").write_text(manual)


def shrink(monkeypatch: pytest.MonkeyPatch, cache: Path, data: Path) -> None:
    """Make this process see the stand-ins."""
    monkeypatch.setenv("LENSBENCH_CACHE", str(cache))
    monkeypatch.setattr(stdlib, "MODULES", MODULES)
    tiny = replace(PRESETS["tiny"], steps=40, width=32, context=64, vocabulary=400)
    monkeypatch.setitem(PRESETS, "tiny", tiny)
    monkeypatch.setattr(sources, "general_pairs", lambda: general_pairs()[: KEPT["general"]])
    if not data.exists():
        shutil.copytree(Path(str(sets.DATA)), data)
        for name, rows in KEPT.items():
            path = data / f"{name}.csv"
            with path.open(encoding="utf-8", newline="") as handle:
                kept = list(itertools.islice(csv.DictReader(handle), rows))
            write_csv(path, kept)
    monkeypatch.setattr(sets, "DATA", data)
