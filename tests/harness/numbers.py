"""Are the numbers of these tables those of before? Cell by cell, through a list of new names."""

from __future__ import annotations

import csv
import io
import re
import tarfile
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

Tables = dict[str, list[dict[str, str]]]  # path -> rows; every cell as it is written

INDEX = {"layer", "layer_a", "layer_b", "depth", "block", "step", "dimension", "n_blocks"}
PROSE = {"meaning", "reason"}  # sentences may be worded anew; what they number is compared
# Ends of intervals, and why there are none, are those of today's method: what is estimated is not.
INTERVAL = re.compile(r"(^|_)(low|high)(_|$)|(^|.*_)reason$")


@dataclass
class Names:
    """What is called otherwise today, or is gone for a reason; see tests/report/renamed.toml."""

    paths: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    columns_dropped: Mapping[str, str] = field(default_factory=dict)
    remeasured: Mapping[str, str] = field(default_factory=dict)
    rounded: Mapping[str, str] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Names:
        return cls(**tomllib.loads(path.read_text(encoding="utf-8")))

    def path(self, before: str) -> str:
        for old, new in self.paths.items():
            if old in before:
                self.used.add(("paths", old))
                before = before.replace(old, new)
        return before

    def column(self, table: str, before: str) -> str:
        """Words of a name are replaced wherever they stand, the longest first, each once."""
        own = self.columns.get(table, {})
        assert isinstance(own, Mapping)
        everywhere = {old: new for old, new in self.columns.items() if isinstance(new, str)}
        words = {**everywhere, **own}
        if not words:
            return before
        longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))

        def new_name(found: re.Match[str]) -> str:
            old = found[0]
            self.used.add((f"columns.{table}" if old in own else "columns", old))
            return words[old]

        return re.sub(rf"(?<![^_])({longest_first})(?![^_])", new_name, before)

    def label(self, before: str) -> str:
        if before in self.labels:
            self.used.add(("labels", before))
        return self.labels.get(before, before)

    def has(self, section: str, what: str) -> bool:
        """Whether `what` matches a line of a section that gives reasons."""
        lines: Mapping[str, str] = getattr(self, section)
        met = [line for line in lines if fnmatch(what, line)]
        self.used.update((section, line) for line in met)
        return bool(met)

    def idle(self) -> list[str]:
        """Lines that met nothing."""
        lines = [
            (name, line)
            for name in ("paths", "labels", "dropped", "columns_dropped", "remeasured", "rounded")
            for line in getattr(self, name)
        ]
        for line, new in self.columns.items():
            lines += [("columns", line)] if isinstance(new, str) else []
            lines += [] if isinstance(new, str) else [(f"columns.{line}", old) for old in new]
        return [f"[{name}] {line}" for name, line in lines if (name, line) not in self.used]


def read_table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def archived(path: Path) -> Tables:
    with tarfile.open(path) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        return {name: read_table(file.read().decode()) for name, file in files.items() if file}


def committed(root: Path) -> Tables:
    """Every table under reports/ of a checkout."""
    return {
        path.relative_to(root).as_posix(): read_table(path.read_bytes().decode())
        for path in sorted((root / "reports").rglob("tables/*.csv"))
    }


def differences(before: Tables, today: Tables, names: Names) -> Iterator[str]:
    """One sentence for every number of `before` that `today` does not have in its place."""
    for path, rows in before.items():
        new_path = names.path(path)
        if names.has("remeasured", path):
            continue
        if new_path not in today:
            yield f"{path}: the table is gone (as {new_path})"
        elif rows:
            yield from _of_table(PurePosixPath(path), rows, today[new_path], names)


def _of_table(
    path: PurePosixPath, before: list[dict[str, str]], today: list[dict[str, str]], names: Names
) -> Iterator[str]:
    columns = {}
    for old in before[0]:
        new = names.column(path.stem, old)
        if today and new in today[0]:
            columns[old] = new
        elif not names.has("columns_dropped", f"{path.name}: {old}"):
            yield f"{path}: the column {old} is gone (as {new})"
    keys = [column for column in _keys(before) if column in columns]
    there = defaultdict(list)
    for row in today:
        there[tuple(row[columns[key]] for key in keys)].append(row)
    for row in before:
        written = ", ".join(row[key] for key in keys)
        match = there[tuple(names.label(row[key]) for key in keys)]
        if match:
            yield from _of_row(f"{path}, row {written!r}", row, match.pop(0), columns, names)
        elif not names.has("dropped", f"{path.name}: {written}"):
            yield f"{path}: the row {written!r} is gone"


def _keys(rows: list[dict[str, str]]) -> list[str]:
    """The columns on the left that say which row it is: text, layers and the like."""
    keys = []
    for column in rows[0]:
        if column not in INDEX and any(_is_number(row[column]) for row in rows):
            break
        keys += [column] if column not in PROSE else []
    return keys


def _of_row(
    where: str, before: dict[str, str], today: dict[str, str], columns: dict[str, str], names: Names
) -> Iterator[str]:
    for old, new in columns.items():
        if INTERVAL.search(old):
            continue
        a, b = before[old], today[new]
        if _numbers(names.label(a)) != _numbers(b) and not names.has(
            "rounded", f"{old}: {a} -> {b}"
        ):
            yield f"{where}, column {old}: {a!r} before, {b!r} today"


def _numbers(cell: str) -> list[str]:
    """A number as it is written, or the numbers in a text: layers "12, 16-26"; not rank1's."""
    return [cell] if _is_number(cell) else re.findall(r"(?<![A-Za-z\d])\d+(?:\.\d+)?", cell)


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", cell) is not None
