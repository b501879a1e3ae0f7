"""What a checkpoint is, in two hashes: read once a process, and never out of date."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lensbench.checkpoints import hashes as module
from lensbench.checkpoints.hashes import hashes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_bytes(b"words")
    return tmp_path


def test_the_two_hashes_are_of_different_files(folder: Path) -> None:
    before = hashes(folder)
    (folder / "config.json").write_text("{}")
    assert hashes(folder) == before
    (folder / "tokenizer.json").write_bytes(b"other")
    after = hashes(folder)
    assert after["weights_sha256"] == before["weights_sha256"]
    assert after["tokenizer_sha256"] != before["tokenizer_sha256"]


def test_a_file_is_read_once_and_again_when_it_was_written_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    own = module.sha256_of
    monkeypatch.setattr(module, "sha256_of", lambda path: read.append(path.name) or own(path))
    before = [hashes(folder) for _ in range(3)]
    assert sorted(read) == ["model.safetensors", "tokenizer.json"]
    weights = folder / "model.safetensors"
    weights.write_bytes(b"WEIGHTS")  # as long as before
    os.utime(weights, ns=(1, 1))
    assert hashes(folder)["weights_sha256"] != before[0]["weights_sha256"]
    assert read[2:] == ["model.safetensors"]
