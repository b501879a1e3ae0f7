"""Runs that are compared: records of activations, opened and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.errors import InputProblems, Problem, RecordsError
from lensbench.files import sha256_of
from lensbench.records.facts import same_tokenizer, tokenizer_of
from lensbench.records.open import open_record
from lensbench.records.read import MANIFEST, table_path
from lensbench.records.record import Record
from lensbench.records.schema.generation import SPANS

# Kinds of record that hold activations of conditions, and the table that changes with them.
READABLE = {"trace": "activations", "cache": "residual_index"}


@dataclass(frozen=True)
class Run:
    """A record that is a condition, and its name in the comparison.

    `span`: the tokens that it stands for, where its name says so; None: those of the study.
    """

    name: str
    record: Record
    span: str | None = None

    @property
    def where(self) -> str:
        """Name and folder, for messages."""
        return f"{self.name} ({self.record.folder})"

    def facts(self) -> dict[str, Any]:
        """What identifies the run, for the manifest of whatever is made of it.

        Raises RecordsError when a table is missing.
        """
        record = self.record
        path = table_path(record.folder, READABLE[record.kind])
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise RecordsError(
                f"{path}: cannot be read ({error}). Make the record again."
            ) from error
        kept = ("name", "bits", "adapter", "weights_sha256", "n_layers", "int8_threshold")
        facts = {key: record.model.get(key) for key in kept} | tokenizer_of(record.model)
        prompts = ("prompts", "prompts_sha256", "batch_size")
        facts |= {key: record.settings.get(key) for key in prompts}
        facts |= {"kind": record.kind, "record": record.folder.name, "span": self.span}
        if record.kind == "cache" and record.residuals is not None:  # its table holds no number
            facts["residuals_sha256"] = record.residuals.record
        return facts | {"activations_sha256": digest}


def open_runs(paths: Sequence[str]) -> list[Run]:
    """Runs from `[NAME=]FOLDER[:SPAN]`; without a name, what the folder is called.

    Raises InputProblems with every folder that is no complete record of activations, for names
    that two runs share, and where only some runs say which tokens they stand for.
    """
    problems: list[Problem] = []
    runs = [run for text in paths if (run := _open(text, problems)) is not None]
    names = [run.name for run in runs]
    problems += [
        Problem(name, "two runs have this name", "Name them: NAME=FOLDER.")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if len({run.span is None for run in runs}) > 1:
        without = ", ".join(run.name for run in runs if run.span is None)
        remedy = "Add :prompt or :generated to every run, or to none."
        problems.append(Problem(without, "other runs name their tokens, these do not", remedy))
    if problems:
        raise InputProblems(problems)
    return runs


def _open(text: str, problems: list[Problem]) -> Run | None:
    name, folder, span = _parts(text)
    remedy = "Name a folder that `lensbench infer --trace` or `lensbench cache` wrote."
    if not (folder / MANIFEST).exists():
        problems.append(Problem(str(folder), f"no record here (no {MANIFEST})", remedy))
        return None
    try:
        record = open_record(folder)
    except RecordsError as error:
        problems.append(Problem(str(folder), str(error).rstrip("."), remedy))
        return None
    if record.kind not in READABLE:
        what = f"a record of kind {record.kind!r} holds no activations"
        problems.append(Problem(str(folder), what, remedy))
        return None
    return Run(name, record, span)


def _parts(text: str) -> tuple[str, Path, str | None]:
    """Name, folder and span of a run as written; a folder may hold any sign."""
    name, path, span = "", text, None
    if "=" in path and not Path(path).exists():
        name, _, path = path.partition("=")
    before, _, after = path.rpartition(":")
    if after in SPANS and not Path(path).exists():
        path, span = before, after
    own = Path(path).resolve().name
    return name or (own if span is None else f"{own}:{span}"), Path(path), span


def require_comparable(runs: Sequence[Run], span: str, relative_depth: bool = False) -> None:
    """Raise InputProblems that name each way in which a run does not match the first one.

    `span`: the tokens of runs that name none. Of prompts a trace has the mean over all of them.
    """
    first, problems = runs[0], []
    for run in runs[1:]:
        where = run.where
        depths = first.record.model["n_layers"], run.record.model["n_layers"]
        if depths[0] != depths[1] and not relative_depth:
            what = f"{depths[1]} layers, {first.name} has {depths[0]}"
            remedy = "Give --relative-depth to compare layers at the same share of the depth."
            problems.append(Problem(where, what, remedy))
        if not relative_depth and same_tokenizer(first.record.model, run.record.model) is False:
            hashes = [_short(one.record.model) for one in (run, first)]
            what = f"tokenizer {hashes[0]}, {first.name} has {hashes[1]}"
            remedy = (
                "Compare runs of one tokenizer, or give --relative-depth to compare models "
                "of different kinds."
            )
            problems.append(Problem(where, what, remedy))
        own, other = (_of_prompt(one, span) for one in (run, first))
        if None not in (own, other) and own != other:
            what = f"it holds {own} of each prompt, {first.name} {other}"
            remedy = "Make caches that keep the same (`lensbench cache --positions all`)."
            problems.append(Problem(where, what, remedy))
    if problems:
        raise InputProblems(problems)


def _of_prompt(run: Run, span: str) -> str | None:
    """Which of a prompt's tokens its vectors are a mean of; None where they are of no prompt's."""
    if (run.span or span) != "prompt":
        return None
    few = run.record.kind == "cache" and run.record.settings["positions"] != "all"
    return "the last token" if few else "all tokens"


def _short(model: Mapping[str, Any]) -> str:
    """Hashes of a tokenizer's files, enough to tell it."""
    return " and ".join(digest[:12] for digest in tokenizer_of(model).values() if digest)
