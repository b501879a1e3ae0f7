"""Folders of weights that do not fit: made and swept by several programs at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lensbench.checkpoints.stored import offload
from lensbench.checkpoints.stored.offload import OffloadFolder


def test_programs_that_begin_at_once_leave_each_other_their_folders(tmp_path: Path) -> None:
    """Locks are of open files, so that threads stand for programs here."""

    def begin(number: int) -> bool:
        kept = OffloadFolder(tmp_path)
        file = kept.path / "weights"
        file.write_text(str(number))
        OffloadFolder(tmp_path).drop()
        whole = file.read_text() == str(number)
        kept.drop()
        return whole

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(begin, range(400)))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("moment", ["before its lock is there", "before its lock is held"])
def test_a_folder_that_is_swept_while_it_is_made_is_made_again(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[Path] = []
    made, flock = tempfile.mkdtemp, offload.fcntl.flock

    def sweep() -> None:
        for folder in () if swept else tmp_path.glob("lensbench-offload-*"):
            swept.append(folder)
            offload._sweep(folder)
            assert not folder.exists()

    def mkdtemp(**how: Any) -> str:
        folder = made(**how)
        if moment == "before its lock is there":
            sweep()
        return folder

    def hold(file: Any, how: int) -> None:
        if moment == "before its lock is held" and not swept:
            monkeypatch.setattr(offload.fcntl, "flock", flock)
            sweep()
        flock(file, how)

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    monkeypatch.setattr(offload.fcntl, "flock", hold)
    kept = OffloadFolder(tmp_path)
    assert len(swept) == 1
    assert kept.path not in swept
    (kept.path / "weights").touch()
    OffloadFolder(tmp_path).drop()
    assert (kept.path / "weights").exists()
    kept.drop()


def test_what_a_killed_program_left_is_deleted(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; "
        "from lensbench.checkpoints.stored.offload import OffloadFolder\n"
        "kept = OffloadFolder(Path(sys.argv[1])); print(kept.path, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        OffloadFolder(tmp_path).drop()
        assert left.is_dir()
        os.kill(other.pid, signal.SIGKILL)
    OffloadFolder(tmp_path).drop()
    assert not left.exists()
