"""A corpus that the model writes itself: batches of texts in files, each made once.

The texts of a seed have an order, and a corpus is as many of their batches as are needed, so
neither an interruption nor an earlier, larger corpus changes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from lensbench.checkpoints.source import cache_dir
from lensbench.corpora.corpus import WRITTEN, Corpus, gathered
from lensbench.corpora.facts import stated
from lensbench.corpora.reading import SHORTEST, read_tokens, reader
from lensbench.errors import InputProblems, Problem
from lensbench.files import write_text
from lensbench.json_text import read_json
from lensbench.models.model import LensModel
from lensbench.models.sampling import write_texts
from lensbench.progress import Progress, Watch
from lensbench.prompts.prompt import Prompt
from lensbench.prompts.rows import text_problems
from lensbench.records.store import disk_error, folder_name

TOGETHER = 32  # texts of one file, written side by side
_MOST = 8  # times the texts that are needed if all are of full length


def written_seed(corpus: str) -> int | None:
    """The seed of `model` or `model:SEED`; None for another corpus.

    Raises InputProblems for a seed that is no whole number.
    """
    name, _, seed = corpus.partition(":")
    if name != WRITTEN:
        return None
    if seed and not (seed.isascii() and seed.isdigit()):
        what = f"{seed!r} is no seed"
        raise InputProblems([Problem("corpus", what, f"Give {WRITTEN}:SEED, such as {WRITTEN}:1.")])
    return int(seed or 0)


@dataclass(frozen=True)
class Writer:
    """Who writes, and how: `model` says which weights, `load` gives them when they are needed."""

    name: str
    model: Mapping[str, Any]
    load: Callable[[], LensModel]
    seed: int
    window: int  # tokens of a text at most, the start included

    @property
    def recipe(self) -> dict[str, Any]:
        """All that decides the texts, on one machine."""
        return {
            "seed": self.seed,
            "temperature": 1.0,
            "window": self.window,
            "together": TOGETHER,
            "model": {key: str(value) for key, value in self.model.items()},
        }

    @cached_property
    def folder(self) -> Path:
        """Where the files are: those of another recipe are in another."""
        digest = hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()
        return cache_dir() / "corpora" / folder_name(self.name) / digest[:16]

    def batch(self, number: int) -> list[dict[str, Any]]:
        """The texts of a file, each with the tokens that can be read of it (0: too few)."""
        path = self.folder / f"{number:06d}.json"
        try:
            there = read_json(path)
            if there["sha256"] == _digest(there["texts"]):
                return list(there["texts"])
        except (OSError, ValueError, LookupError, TypeError):
            pass  # not there, or damaged: it is written again, the same
        texts = self._written(number)
        try:
            write_text(self.folder / "recipe.json", json.dumps(self.recipe, indent=2) + "\n")
            write_text(path, json.dumps({"sha256": _digest(texts), "texts": texts}))
        except OSError as error:
            raise disk_error(self.folder, error) from error
        return texts

    def _written(self, number: int) -> list[dict[str, Any]]:
        model = self.load()
        seeds = [(self.seed, number * TOGETHER + i) for i in range(TOGETHER)]
        window = min(self.window, model.n_ctx)
        every = write_texts(model, seeds, window - 1)
        # A last character of which not all bytes were written is none.
        texts = [str(model.tokenizer.decode(ids)).rstrip("\ufffd") for ids in every]
        return [{"text": text, "n_tokens": _readable(model, text, window)} for text in texts]


def _digest(texts: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _readable(model: LensModel, text: str, window: int) -> int:
    try:
        encoder = reader(model.tokenizer, model.d_vocab)
        n_tokens = len(read_tokens("", text, encoder, window))
    except InputProblems:  # empty, or with what no prompt may hold
        return 0
    return n_tokens if n_tokens >= SHORTEST else 0


def written_corpus(writer: Writer, n_tokens: int, facts: Sequence[Prompt], watch: Watch) -> Corpus:
    """As many texts as hold so many tokens in windows, without those that state one of the facts
    or that no prompt may hold.

    Raises InputProblems for a model that writes hardly any text, RecordsError for a full disk.
    """
    asked = [fact for fact in facts if fact.is_base]
    texts: dict[str, str] = {}  # where each stands
    done, most = 0, _MOST * n_tokens / writer.window + TOGETHER
    for number in count():
        watch(Progress(f"{writer.name} writes its corpus", min(done, n_tokens), n_tokens, "tokens"))
        if done >= n_tokens:
            break
        if number * TOGETHER > most:
            n_texts = number * TOGETHER
            what = (
                f"{writer.name} wrote {done:,} tokens in {n_texts:,} texts, most of them too short"
            )
            raise InputProblems([Problem("corpus", what, "Give a corpus of texts.")])
        for i, one in enumerate(writer.batch(number)):
            text = one["text"]
            if text_problems(text, ""):  # a model may write a NUL: no user is told to mend that
                continue
            done += one["n_tokens"] if text not in texts and not stated(text, asked) else 0
            texts.setdefault(text, f"text {number * TOGETHER + i}")
    written = {"written": {key: writer.recipe[key] for key in ("seed", "temperature", "window")}}
    return gathered(
        WRITTEN, [(where, text) for text, where in texts.items()], facts, origin=written
    )
