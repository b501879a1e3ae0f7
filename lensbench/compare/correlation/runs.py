"""Runs that are compared: records of activations, opened and checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.errors import InputProblems, Problem, RecordsError
from lensbench.files import sha256_of
from lensbench.records.open import MANIFEST, read_manifest
from lensbench.records.schema.generation import SPANS

# Kinds of record that hold activations of conditions, and the table that changes with them.
READABLE = {"trace": "activations", "cache": "residual_index"}


@dataclass(frozen=True)
class Run:
    """A record that is a condition: its name in the comparison, its folder and its manifest.

    `span`: the tokens that it stands for, where its name says so; None: those of the study.
    """

    name: str
    folder: Path
    manifest: dict[str, Any]
    span: str | None = None

    @property
    def model(self) -> dict[str, Any]:
        """The manifest's facts about the model."""
        return dict(self.manifest["model"])

    def facts(self) -> dict[str, Any]:
        """What identifies the run, for the manifest of whatever is made of it.

        Raises RecordsError when a table is missing.
        """
        path = self.folder / f"{READABLE[self.manifest['kind']]}.parquet"
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise RecordsError(
                f"{path}: cannot be read ({error}). Make the record again."
            ) from error
        settings = self.manifest["settings"]
        kept = ("name", "bits", "adapter", "weights_sha256", "tokenizer_sha256", "n_layers")
        facts = {key: self.model.get(key) for key in (*kept, "int8_threshold")}
        facts |= {key: settings.get(key) for key in ("prompts", "prompts_sha256", "batch_size")}
        facts |= {"kind": self.manifest["kind"], "record": self.folder.name, "span": self.span}
        return facts | {"activations_sha256": digest}


def open_runs(paths: Sequence[str]) -> list[Run]:
    """Runs from `[NAME=]FOLDER[:PHASE]`; without a name, what the folder is called.

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
        manifest = read_manifest(folder / MANIFEST)
    except RecordsError as error:
        problems.append(Problem(str(folder), str(error).rstrip("."), remedy))
        return None
    kind = manifest["kind"]
    if kind not in READABLE:
        what = f"a record of kind {kind!r} holds no activations"
        problems.append(Problem(str(folder), what, remedy))
        return None
    if manifest["status"] != "complete":
        what = f"the run is not complete (status {manifest['status']!r})"
        problems.append(Problem(str(folder), what, "Run its command again: it goes on."))
        return None
    return Run(name, folder, manifest, span)


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


def require_comparable(runs: Sequence[Run], relative_depth: bool = False) -> None:
    """Raise InputProblems that name each way in which a run does not match the first one."""
    first, problems = runs[0], []
    for run in runs[1:]:
        where = f"{run.name} ({run.folder})"
        depths = first.model["n_layers"], run.model["n_layers"]
        if depths[0] != depths[1] and not relative_depth:
            what = f"{depths[1]} layers, {first.name} has {depths[0]}"
            remedy = "Give --relative-depth to compare layers at the same share of the depth."
            problems.append(Problem(where, what, remedy))
        hashes = [r.model.get("tokenizer_sha256") for r in (first, run)]
        if hashes[0] != hashes[1] and not relative_depth:
            what = f"tokenizer {_short(hashes[1])}, {first.name} has {_short(hashes[0])}"
            remedy = (
                "Compare runs of one tokenizer, or give --relative-depth to compare models "
                "of different kinds."
            )
            problems.append(Problem(where, what, remedy))
    if problems:
        raise InputProblems(problems)


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "unknown"
