"""The same weights under another config.json are another model, for every kind of record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from lensbench.checkpoints import ref
from tests.harness.caches import ROWS, write_prompts
from tests.harness.files import manifest, write_manifest
from tests.harness.program import Program
from tests.harness.tiny import Case

FACT = "config_sha256"


@pytest.fixture
def model(llama: Case, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama.folder, tmp_path / "model"))


def _change(model: Path, **fields: object) -> None:
    """Edit config.json where it lies, so that the name of the model stays."""
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _forget(record: Path) -> None:
    """The manifest as an older lensbench wrote it."""
    found = manifest(record)
    assert len(found["model"].pop(FACT)) == 64
    write_manifest(record, found)


_INFER = ("--bits", "32", "--max-new-tokens", "2", "--style", "none", "--trace")


@pytest.mark.parametrize("verb", ["lens", "cache", "trace"])
def test_a_run_is_not_gone_on_with_under_another_config(
    verb: str, model: Path, tmp_path: Path, lensbench: Program
) -> None:
    prompts, out = write_prompts(tmp_path / "p.csv", ROWS[:2]), tmp_path / "run"
    commands: dict[str, Sequence[object]] = {
        "lens": ("lens", model, "--prompts", prompts, "-o", out),
        "cache": ("cache", model, "--prompts", prompts, "-o", out),
        "trace": ("infer", model, prompts, "-o", tmp_path / "o.csv", *_INFER, out),
    }
    again = commands[verb]
    assert lensbench(*again).status == 0
    (record,) = [path.parent for path in out.rglob("manifest.json")]
    _change(model, transformers_version="0.0", rms_norm_eps=1e-2)
    refused = lensbench(*again)
    assert refused.status != 0
    assert f"model.{FACT}: " in refused.said
    _forget(record)
    before = {path: path.read_bytes() for path in record.rglob("*.parquet")}
    assert lensbench(*again).status == 0  # of an older record it is not known
    assert before == {path: path.read_bytes() for path in record.rglob("*.parquet")}


def test_a_cache_is_not_read_for_another_config(
    model: Path, tmp_path: Path, lensbench: Program
) -> None:
    prompts, cache = write_prompts(tmp_path / "p.csv", ROWS[:2]), tmp_path / "cache"
    assert lensbench("cache", model, "--prompts", prompts, "-o", cache).status == 0
    read = ("lens", model, "--cache", cache, "-o")
    _change(model, transformers_version="0.0")
    assert lensbench(*read, tmp_path / "same").status == 0
    _change(model, rms_norm_eps=1e-2)
    refused = lensbench(*read, tmp_path / "other")
    assert refused.status != 0
    assert "is a cache of another model" in refused.said and FACT in refused.said


def test_a_cache_of_an_older_lensbench_is_read(
    model: Path, tmp_path: Path, lensbench: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows its config, so it is no other."""
    prompts, cache = write_prompts(tmp_path / "p.csv", ROWS[:2]), tmp_path / "cache"
    with monkeypatch.context() as older:
        own = ref.hashes
        older.setattr(ref, "hashes", lambda f: {k: v for k, v in own(f).items() if k != FACT})
        assert lensbench("cache", model, "--prompts", prompts, "-o", cache).status == 0
    assert FACT not in manifest(cache)["model"]
    assert lensbench("lens", model, "--cache", cache, "-o", tmp_path / "read").status == 0
