"""A record being made: whether it is finished, may be gone on with or widened; begun, finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from lensbench.errors import Problem, RecordsError
from lensbench.files import write_bytes
from lensbench.records.facts import differing, known_of
from lensbench.records.manifest import (
    done_before,
    new_manifest,
    peak_memory_bytes,
    plan_of,
    require_same_versions,
    say_other_code,
    taken,
)
from lensbench.records.parts import Parts
from lensbench.records.read import require_unaltered, table_path
from lensbench.records.residuals import shards_of
from lensbench.records.schema import KINDS, SCHEMA_VERSION
from lensbench.records.store import RecordStore

# What the manifest of a widened record keeps of the narrower one's.
_KEPT = (
    "status",
    "created",
    "lensbench_version",
    "versions",
    "git",
    "machine",
    "gate",
    "stored_kl_bits",
    "read_again",
    "recomputed",
    "problems",
    "wall_s",
    "workers",
    "peak_memory_bytes",
    "planned",
    "took",
)

_NOTED_S = 5.0  # between two notes of the time: each is a file that is made to last

# Facts of how a model was run that decide no number: where its blocks lay goes by free memory.
_HOW = ("blocks_on",)


@dataclass(frozen=True)
class Request:
    """A record that is wanted, by what is known before anything is loaded.

    `settings` and `model` decide the numbers: a folder that holds a record of others is refused.
    `grows` names settings that say how much is measured (None: all there is). They may be raised
    later: the record is widened then, what is there stays as it is and the rest is measured.
    """

    store: RecordStore
    settings: Mapping[str, Any]
    model: Mapping[str, Any] = field(default_factory=dict)  # the facts that are known already
    tables: tuple[str, ...] = ()  # besides those of the kind
    # Settings that may be left to be decided when the model is loaded; they say how the jobs are
    # cut, so a finished record may have others.
    decided: tuple[str, ...] = ()
    grows: tuple[str, ...] = ()
    # Of the manifest there: what it was made of has grown since, so it is made again.
    outgrown: Callable[[Mapping[str, Any]], bool] = lambda _: False
    # Hashes of the model's files as they are now: asked for again when all is measured.
    again: Callable[[], Mapping[str, Any]] = dict

    def leaving_open(self, unknown: Collection[str]) -> Request:
        """The same before so many of its settings are known: a plan reads no weights, no index."""
        known = {key: value for key, value in self.settings.items() if key not in unknown}
        return replace(self, settings=known, decided=(*self.decided, *unknown))

    @property
    def all_tables(self) -> tuple[str, ...]:
        """Every table of the finished record."""
        return (*KINDS[self.store.kind].names, *self.tables)

    @property
    def width(self) -> dict[str, Any]:
        """How much is to be measured."""
        return {key: self.settings[key] for key in self.grows}


@dataclass(frozen=True)
class Finished:
    """What has become of the parts. Tables that are not given are their rows, in job order."""

    problems: Sequence[Problem]
    # Whole, or piece by piece where not all of it fits in memory.
    tables: Mapping[str, pa.Table | Iterable[pa.Table]] = field(default_factory=dict)
    gate: Sequence[Mapping[str, Any]] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)  # by path from the record's folder
    facts: Mapping[str, Any] = field(default_factory=dict)  # further entries of the manifest
    beside: Sequence[Path] = ()  # folders of the record that stay, under checksums of their own


@dataclass(frozen=True)
class Standing:
    """How far a record is: `finished`, or the `widths` of its stages and those whose jobs count.

    `first` of the widths need no job any more; of the jobs of the others these `numbers` are done.
    `threads`: with how many it was begun, and will be gone on with. `missing`: files of a complete
    record that are not there, so that all of it is made again.
    """

    finished: bool
    widths: Sequence[Mapping[str, Any]]
    first: int = 0
    numbers: frozenset[int] = frozenset()
    threads: int | None = None
    missing: Sequence[str] = ()


def standing(request: Request) -> Standing:
    """The same of the record that is wanted, which is looked at and left alone.

    Raises RecordsError for a folder that holds another record or anything else, as `recording`.
    """
    request.store.require_free()
    there = request.store.manifest()
    if there is None or request.outgrown(there):
        return Standing(False, [request.width])
    _require_same(request, there, request.settings, request.model)
    require_same_versions(request.store.folder, there)
    if missing := _missing(request, there):
        return Standing(False, [request.width], missing=missing)
    whole = there["status"] == "complete"
    now, before = request.width, _width(request, there)
    earlier = [dict(one["settings"]) for one in there.get("widened", [])]
    if whole and now == before:
        return Standing(True, [*earlier, now])
    widths = [*earlier, before, now] if now != before else [*earlier, now]
    complete = [one["status"] == "complete" for one in there.get("widened", [])]
    complete += [whole] if now != before else []
    first = max((i + 1 for i, done in enumerate(complete) if done), default=0)
    numbers = frozenset() if whole else frozenset(Parts(request.store.folder).numbers)
    return Standing(False, widths, first, numbers, there.get("machine", {}).get("threads"))


@contextmanager
def recording(request: Request) -> Iterator[Recording]:
    """Make a record and keep every other process out of its folder meanwhile.

    Raises RecordsError for a folder that somebody writes or that holds another record or anything
    else, and for a full disk or other file trouble.
    """
    request.store.require_free()
    with request.store.locked():
        yield Recording(request)


class Recording:
    """A record from the first look into its folder to its last table.

    `finished`: nothing is left to do. `widened`: what the manifest keeps of each narrower record
    that this one came of, the narrowest first.
    """

    def __init__(self, request: Request) -> None:
        self.request, self.store, self.parts = request, request.store, Parts(request.store.folder)
        self._started = time.monotonic()
        self._manifest: dict[str, Any] = {}
        self._there = there = self._found()
        self._wider = there is not None and _width(request, there) != request.width
        self.finished = there is not None and there["status"] == "complete" and not self._wider
        self.widened: list[dict[str, Any]] = list(there.get("widened", [])) if there else []
        self._earlier_s, self._peak_bytes = 0.0, peak_memory_bytes()
        self._noted = self._started
        if there is not None and self._wider:
            self.widened.append(self._narrower(there))
        if self.finished:
            self._tidy()  # it may have been killed on its last step

    def _narrower(self, there: Mapping[str, Any]) -> dict[str, Any]:
        """What the manifest will keep of the record that is widened now."""
        if there["schema_version"] != SCHEMA_VERSION:
            raise RecordsError(
                f"{self.store.folder} was written by an older lensbench, so it cannot be "
                f"widened. Give this run another folder with {self.store.option}."
            )
        kept = {key: there[key] for key in _KEPT if key in there}
        return {"settings": _width(self.request, there)} | kept

    def _found(self) -> dict[str, Any] | None:
        """The manifest to go on from; None where there is none, or it is to be made again."""
        there = self.store.manifest()
        if there is None:
            return None
        if self.request.outgrown(there):
            self._tidy()
            return None
        _require_same(self.request, there, self.request.settings, self.request.model)
        require_same_versions(self.store.folder, there)
        say_other_code(self.store.folder, there)
        if _missing(self.request, there):
            self._tidy()
            return None
        for path in _paths(self.request, there) if there["status"] == "complete" else ():
            require_unaltered(path, there)
        return there

    def said(self, fact: str) -> Any:
        """What the record that is gone on with says of its model; None where it says nothing."""
        return None if self._there is None else self._there["model"].get(fact)

    def threads(self, asked: int | None) -> int | None:
        """With how many threads the record is made: those that it was begun with; None: not said.

        Raises RecordsError where others are asked for.
        """
        begun = None if self._there is None else self._there.get("machine", {}).get("threads")
        if None not in (begun, asked) and begun != asked:
            raise RecordsError(
                f"{self.store.folder} was begun with {begun} thread(s) to a sum, and {asked} would "
                "give other last digits. Leave --threads out, or give another folder with "
                f"{self.store.option}."
            )
        return asked if begun is None else begun

    @property
    def widths(self) -> list[dict[str, Any]]:
        """How much was to be measured at first, each time after, and now."""
        return [*(dict(narrower["settings"]) for narrower in self.widened), self.request.width]

    @property
    def n_measured(self) -> int:
        """How many of `widths` need no job any more: their tables are kept."""
        complete = [narrower["status"] == "complete" for narrower in self.widened]
        return max((i + 1 for i, whole in enumerate(complete) if whole), default=0)

    @property
    def id(self) -> str:
        """What files beside the tables say that they are of; a widened record keeps it."""
        return shards_of(self._manifest)

    def begin(self, model: Mapping[str, Any], decided: Mapping[str, Any] | None = None) -> None:
        """Write the manifest, now that the model is loaded, before anything is measured.

        Raises RecordsError naming every difference when the folder holds another record.
        """
        settings = {**self.request.settings, **(decided or {})}
        there = self._there
        known = model if there is None else known_of(there["model"], model)
        self._manifest = new_manifest(dict(known), settings, self.store.kind)
        if there is not None:
            _require_same(self.request, there, settings, model, loaded=True)
        if self.widened:
            self._manifest |= {"widened": self.widened}
        if there is not None and self._wider and there["status"] == "complete":
            self.parts.keep_earlier(self.request.all_tables)
        elif self.n_measured:
            self.parts.require_earlier(self.request.all_tables)
        self._earlier_s = self.parts.earlier_s
        self._manifest |= self._planned()
        if there is None or self._wider:
            self.store.write_manifest(self._manifest)

    @property
    def _wall_s(self) -> float:
        """Of all sessions; of those that were killed what they had noted."""
        return self._earlier_s + time.monotonic() - self._started

    def note_time(self) -> None:
        """A job is done: note the time so far, for whoever goes on after a kill; now and then."""
        if (now := time.monotonic()) - self._noted >= _NOTED_S:
            self.parts.note_time(self._wall_s)
            self._noted = now

    def _planned(self) -> dict[str, Any]:
        """What was planned when this record was begun, or widened."""
        there = self._there
        if there is not None and not self._wider:
            planned = there.get("planned")
        else:
            planned = plan_of(self.store.folder)
        if planned and there is not None and self._wider and there["status"] != "complete":
            planned |= {"before": done_before(self.parts, self._earlier_s)}
        return {"planned": planned} if planned else {}

    def finish(self, made: Finished, **facts: Any) -> None:
        """Write every table, then that the record is complete. Raises as `_require_same_files`."""
        self._require_same_files()
        problems = list(dict.fromkeys(made.problems))
        tables = {**made.tables, "problems": self.store.problems_table(problems)}
        for name in self.request.all_tables:
            given = tables.get(name, self.parts.tables(name))
            self.store.write_table(name, [given] if isinstance(given, pa.Table) else given)
        for path, data in made.files.items():
            write_bytes(self.store.folder / path, data)
        checksums = self.store.checksums(self.request.all_tables, made.files)
        if "planned" in self._manifest:
            files = [self.store.folder / path for path in checksums]
            files += [
                path for folder in made.beside for path in folder.rglob("*") if path.is_file()
            ]
            spent = self._wall_s, files, self._peak_bytes
            self._manifest["took"] = taken(self._manifest["planned"], self.parts, *spent)
        self._manifest |= {
            "status": "complete",
            "checksums": checksums,
            "gate": list(made.gate),
            "problems": len(problems),
            "files": sorted(made.files),
            "wall_s": round(time.monotonic() - self._started, 1),
            **({"workers": self.parts.n_workers} if self.parts.n_workers else {}),
            "peak_memory_bytes": peak_memory_bytes(),
            **facts,
            **made.facts,
        }
        self.store.write_manifest(self._manifest)
        self._tidy()

    def _require_same_files(self) -> None:
        """Raise RecordsError, and forget the jobs, where weights (read where they lie) changed."""
        then, now = self.request.model, self.request.again()
        keys = sorted(key for key in {*then} & {*now} if key.endswith("_sha256"))
        lines = [f"  - {key}: {then[key]}, {now[key]}" for key in keys if then[key] != now[key]]
        if lines:
            self.parts.forget_jobs()
            raise RecordsError(
                "\n".join(
                    [f"{self.store.model} was changed while it was measured (before, now):", *lines]
                )
                + f"\nWhat was measured since {self.store.folder} was begun or widened is dropped. "
                "Put the files back and run it again, or give the changed model another folder "
                f"with {self.store.option}."
            )

    def _tidy(self) -> None:
        self.parts.drop()
        self.store.sweep()


def _paths(request: Request, manifest: Mapping[str, Any]) -> list[Path]:
    """Every table and file of a record."""
    tables = [table_path(request.store.folder, name) for name in request.all_tables]
    return [*tables, *(request.store.folder / path for path in manifest.get("files", []))]


def _missing(request: Request, manifest: Mapping[str, Any]) -> list[str]:
    """Of a complete record what is not there, such as tensors that are not in git."""
    whole = manifest["status"] == "complete"
    return [path.name for path in _paths(request, manifest) if whole and not path.exists()]


def _width(request: Request, manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: manifest["settings"].get(key) for key in request.grows}


def _require_same(
    request: Request,
    there: Mapping[str, Any],
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    loaded: bool = False,
) -> None:
    """Raise RecordsError with every difference, unless the record there may be gone on with.

    Until the model is loaded, its facts and the settings that it decides are not all known.
    """
    known = {*there["settings"], *settings} - (set(request.decided) - {*settings})
    facts = {*there["model"], *model} - {*_HOW} if loaded else {*model}
    unlike = {
        **differing("settings", there["settings"], settings, known),
        **differing("model", there["model"], model, facts),
    }
    growing = [f"settings.{key}" for key in request.grows if f"settings.{key}" in unlike]
    narrower = any(not wider(*unlike[key]) for key in growing)
    idle = request.decided if there["status"] == "complete" else ()
    if not narrower and {*unlike} <= {*growing, *(f"settings.{key}" for key in idle)}:
        return
    lines = "\n".join(f"  - {key}: {a!r} there, {b!r} now" for key, (a, b) in unlike.items())
    why = "A record can be widened, but not narrowed. " if narrower else ""
    raise RecordsError(
        f"{request.store.folder} holds a run made with other settings:\n{lines}\n"
        f"{why}Run it as it was begun, give this run another folder with {request.store.option}, "
        "or delete that one."
    )


def wider(before: int | None, now: int | None) -> bool:
    """Whether more is measured now; None is all there is."""
    return before is not None and (now is None or now > before)
