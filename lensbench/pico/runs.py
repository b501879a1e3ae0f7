"""Runs of `lensbench pico train` as something to look into: their steps, and what they held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.checkpoints.hashes import hashes
from lensbench.corpora.corpus import Corpus, Document, gathered
from lensbench.errors import InputProblems, Problem, RecordsError
from lensbench.records.open import open_record
from lensbench.records.read import MANIFEST, require_unaltered
from lensbench.records.record import Record

HELD_OUT = "held-out.jsonl"  # beside the record: text that the model never saw
_MOST_CHARACTERS = 400_000  # of it
_ALIKE = ("n_layers", "d_model", "d_vocab", "n_params", "tokenizer_sha256")


@dataclass(frozen=True)
class Run:
    """A finished training, and the steps of it that are meant."""

    record: Record
    steps: tuple[int, ...]

    @property
    def name(self) -> str:
        """The preset and the seed."""
        return self.record.name

    @property
    def seed(self) -> int:
        """Of its weights, order and dropout."""
        return int(self.record.settings["seed"])

    @property
    def step_tokens(self) -> int:
        """Tokens of one step."""
        return int(self.record.settings["batch_size"] * self.record.settings["context"])

    def folder(self, step: int) -> Path:
        """The model of a step."""
        return self.record.folder / next(
            str(kept["folder"]) for kept in self.record.manifest["kept"] if kept["step"] == step
        )

    def facts(self) -> dict[str, Any]:
        """What it was trained on, and what decides its numbers: steps, one hash of all weights."""
        kept = [one for one in self.record.manifest["kept"] if one["step"] in self.steps]
        hashes = "".join(one["weights_sha256"] for one in kept)
        return {
            "seed": self.seed,
            "corpus": self.record.manifest["corpus"]["name"],
            "repeated_share": self.record.settings["repeated_share"],
            "steps": list(self.steps),
            "weights_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        }


def held_out_file(documents: Iterable[Document]) -> bytes:
    """The first of the held-out documents, as JSON Lines."""
    lines: list[str] = []
    size = 0
    for document in documents:
        size += len(document.text)
        if lines and size > _MOST_CHARACTERS:
            break
        row = {"source": document.source, "text": document.text}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def held_out(run: Run) -> Corpus:
    """What its training held out. Raises RecordsError where it was altered."""
    path = run.record.folder / HELD_OUT
    require_unaltered(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    name = f"{run.record.manifest['corpus']['name']} (held out)"
    return gathered(name, [(row["source"], row["text"]) for row in rows])


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs that folders are or lie in, with the steps that are meant: of a run's folder all.

    Raises InputProblems for a folder that is neither, and for runs that cannot be compared;
    RecordsError for weights that were altered.
    """
    steps: dict[Path, set[int]] = {}
    problems: list[Problem] = []
    for path in paths:
        found = _steps_at(path)
        if found is None:
            remedy = "Give the folder of `lensbench pico train -o`, or a step-... in it."
            problems.append(Problem(str(path), "no record of a small model is here", remedy))
        else:
            steps.setdefault(found[0], set()).update(found[1])
    if problems:
        raise InputProblems(problems)
    runs = [Run(open_record(folder), tuple(sorted(own))) for folder, own in steps.items()]
    _require_alike(runs)
    for run in runs:
        _require_models(run)
    return runs


def _steps_at(path: Path) -> tuple[Path, set[int]] | None:
    """The run's folder and the steps that a path names."""
    folder = path.resolve()
    for own, only in ((folder, None), (folder.parent, folder.name)):
        if (own / MANIFEST).is_file():
            record = open_record(own)
            kept = record.manifest.get("kept", []) if record.kind == "pretraining" else []
            steps = {int(one["step"]) for one in kept if only in (None, one["folder"])}
            if steps:
                return own, steps
    return None


def _require_alike(runs: Sequence[Run]) -> None:
    """Raise InputProblems, with every difference, for models of another shape or text."""
    first, *others = [{key: run.record.model.get(key) for key in _ALIKE} for run in runs]
    texts = [run.record.manifest["checksums"][HELD_OUT] for run in runs]
    problems = [
        Problem(runs[i].name, f"{key} is {own[key]}, of {runs[0].name} {first[key]}", _APART)
        for i, own in enumerate(others, 1)
        for key in _ALIKE
        if own[key] != first[key]
    ]
    problems += [
        Problem(run.name, f"another text was held out than of {runs[0].name}", _APART)
        for run, text in zip(runs, texts, strict=True)
        if text != texts[0]
    ]
    names = [run.name for run in runs]
    problems += [
        Problem(name, "two runs are called so", "Train each with its own --seed.")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if problems:
        raise InputProblems(problems)


_APART = "Analyse it by itself."


def _require_models(run: Run) -> None:
    """Weights, tokenizer and config are what was kept; an older lensbench said it of weights."""
    for kept in run.record.manifest["kept"]:
        folder = run.record.folder / kept["folder"]
        if kept["step"] not in run.steps:
            continue
        now = hashes(folder) if folder.is_dir() else {}
        other = [key for key in kept if key.endswith("_sha256") and kept[key] != now.get(key)]
        if other:
            what = ", ".join(key.removesuffix("_sha256").replace("_", " ") for key in other)
            raise RecordsError(
                f"{folder}: its {what} are gone, or not what was trained. Leave this step out, or "
                "train the run again."
            )
