"""The bench of whole verbs: what it says of a process is what the process did; a table is kept."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.benchmarks.size import Job, bench, keep
from tests.harness.processes import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's own counts")
MADE = {"weights": 10**9, "predicted": 2 * 10**9, "hash_s": 1.0}


def test_a_process_is_measured_from_outside_whatever_its_parent_holds(tmp_path: Path) -> None:
    """This one holds torch, and 400 MB more."""
    held = bytearray(400_000_000)
    file = tmp_path / "file"
    file.write_bytes(b"0" * 50_000_000)
    code = "import sys, time; held = open(sys.argv[1], 'rb').read() * 2; time.sleep(.5); print(1)"
    found = run([sys.executable, "-c", code, str(file)], os.environ)
    assert found.seconds >= found.first >= 0.5 and found.silent >= 0.5
    assert found.peak_bytes == pytest.approx(1.5e8, rel=0.2)  # the file, and twice the file
    assert len(held) > 2 * found.peak_bytes
    assert found.read_bytes == pytest.approx(5e7, rel=0.05)


def test_one_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="what it said"):
        run([sys.executable, "-c", "raise SystemExit('what it said')"], os.environ)


def test_names_of_jobs() -> None:
    assert Job.of("lens", 4, 1) == Job("lens", 16, 1)
    assert Job.of("infer4", 4, 1) == Job("infer", 4, 4)
    assert Job.of("train", 4, 2) == Job("train", 8, 2)
    for name in ("lens8", "infer5", "walk", "lens16 "):
        with pytest.raises(ValueError, match=name):
            Job.of(name, 4, 1)


def test_a_table_keeps_what_was_measured_before(tmp_path: Path) -> None:
    def measured(seconds: float, made: str) -> dict[str, object]:
        one = {"first": 0.1, "silent": 0.2, "peak_bytes": 2 * 10**9, "read_bytes": 10**9}
        runs = {"lensbench": [one | {"seconds": seconds}], "plain": [one | {"seconds": 2.0}]}
        return MADE | runs | {"made": made}

    path = tmp_path / "size-x"
    keep(path, "x", "lens: one prompt, 16 bits", measured(9.0, "Made on Monday."))
    keep(path, "x", "infer: 4 prompts, 8 bits", measured(4.0, "Made on Tuesday."))
    text = keep(path, "x", "lens: one prompt, 16 bits", measured(3.0, "Made on Wednesday."))
    rows = [line for line in text.splitlines() if line.startswith("| lens") or " x " in line]
    assert "| lens: one prompt, 16 bits | 3.0 | 2.0 | 1.50 | 0.1 | 0.2 | 1.00 | 1.00" in rows[-1]
    assert "infer: 4 prompts, 8 bits | 4.0 | 2.0 | 2.00" in text
    assert "Tuesday" in text and "Wednesday" in text and "Monday" not in text


@pytest.mark.slow
def test_every_job_ends_and_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = json.loads(Path("tests/configs/tinyllama.json").read_text())
    small = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = tmp_path / "small.json"
    config.write_text(json.dumps(fields | small | heads))
    for parts in ("lens,infer4", "train,infer"):
        bench(config, parts, folder=tmp_path / "weights", out=tmp_path, remove="train" in parts)
    assert not (tmp_path / "weights").exists()
    table = (tmp_path / "size-small.md").read_text()
    assert len([line for line in table.splitlines() if " bits | " in line]) == 4
    assert "/" not in table.split("| job")[0]  # no place of this machine
