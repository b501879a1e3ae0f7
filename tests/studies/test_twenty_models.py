"""`lensbench run` over twenty models, three of them broken, and on when they are mended."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lensbench.records.failures import FAILED
from lensbench.records.store import folder_name
from tests.harness.files import table_bytes
from tests.harness.forks import ONE_THREAD, ROOT
from tests.harness.many_models import BYTES, write_zoo

# The program tells its own peak: what `wait4` tells of a child begins with its parent's memory.
_RUN = """
import sys
from lensbench.cli import main
from lensbench.records.manifest import peak_memory_bytes
try:
    main()
except SystemExit as ended:
    print(ended.code or 0, peak_memory_bytes())
"""


def run(study: Path, models: Sequence[Path | str], facts: Path, out: Path) -> tuple[int, int, str]:
    """The program's exit status, the most memory that it held, and what it said of failures."""
    study.mkdir(exist_ok=True)
    names = json.dumps(list(map(str, models)))
    text = f"models = {names}\nprompts = '{facts}'\nlimit = 2\nheatmap_prompts = 0\n"
    (study / "analysis.toml").write_text(text + "lenses = ['final']\n", encoding="utf-8")
    command = [sys.executable, "-c", _RUN, "run", str(study), "--out", str(out), "--device", "cpu"]
    done = subprocess.run(command, env=ONE_THREAD, cwd=ROOT, capture_output=True, text=True)
    status, peak = map(int, done.stdout.splitlines()[-1].split())
    return status, peak, done.stderr


def spoil(model: Path) -> None:
    """Put NaN in place of one weight."""
    path = min(model.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    (n,) = struct.unpack("<Q", data[:8])
    tensors = json.loads(data[8 : 8 + n])
    start = next(own["data_offsets"][0] for name, own in tensors.items() if "mlp" in name)
    data[8 + n + start : 12 + n + start] = struct.pack("<f", float("nan"))
    path.write_bytes(data)


@pytest.mark.slow
def test_twenty_models_one_after_another_with_three_that_cannot_be_read(
    facts: Path, tmp_path: Path
) -> None:
    models = write_zoo(tmp_path / "models")
    cut, nan, bare = models[4], models[7], models[11]
    shutil.copytree(tmp_path / "models", tmp_path / "whole")
    shard = sorted(cut.glob("*.safetensors"))[1]
    os.truncate(shard, shard.stat().st_size - 1000)
    spoil(nan)
    for path in bare.glob("*.safetensors*"):
        path.unlink()
    out, study = tmp_path / "out", tmp_path / "study"

    _, of_two, _ = run(study, models[:2], facts, tmp_path / "two")
    status, of_all, said = run(study, models, facts, out)
    assert status == 1
    assert of_all - of_two < BYTES  # one model's weights: nothing of those before is held
    failed = json.loads((out / FAILED).read_text(encoding="utf-8"))
    words = {cut: "is cut off", nan: "NaN or Inf in the weights", bare: "no weights"}
    assert failed.keys() == {*map(str, words)}
    report = (out / "report.md").read_text(encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    for model, word in words.items():
        assert word in failed[str(model)]
        assert model.name in said
        assert model.name in report
        assert model.name in page.partition("not measured: ")[2]
    records = {model: out / folder_name(str(model)) for model in models}
    first = {model: table_bytes(records[model]) for model in models if model not in words}
    assert all(first.values())
    times = {model: (records[model] / "manifest.json").stat().st_mtime_ns for model in first}

    for model in words:  # mended
        shutil.rmtree(model)
        shutil.copytree(tmp_path / "whole" / model.name, model)
    _, _, said = run(study, models, facts, out)
    assert not (out / FAILED).exists()
    assert "could not measure" not in (out / "report.md").read_text(encoding="utf-8")
    assert times == {m: (records[m] / "manifest.json").stat().st_mtime_ns for m in first}
    alone = tmp_path / "alone"
    run(study, list(words), facts, alone)
    for model in words:
        assert table_bytes(records[model]) == table_bytes(alone / records[model].name)
