"""A data set of the Hugging Face hub as a corpus: one of its files, fetched when asked, pinned.

A whole data set may be larger than any disk and a lens needs some megabytes, so it is the first
file of a split. Its revision and hash are kept: it is the same text until it is fetched again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lensbench.checkpoints.pull import hub_errors, require_space
from lensbench.checkpoints.source import cache_dir
from lensbench.corpora.files import in_parts, text_files
from lensbench.errors import InputProblems, Problem, RecordsError, first_line
from lensbench.files import sha256_of, write_text
from lensbench.json_text import parse_json, read_json
from lensbench.progress import Notify, ignore
from lensbench.records.store import folder_name

PREFIX = "hub:"
FORM = "hub:OWNER/NAME[/SPLIT][:COLUMN]"
_READ = (".parquet", ".jsonl", ".txt")
_MOST_ROWS = 20_000  # of a file, from its beginning
_SHOWN = 8  # of what there is, in a message


@dataclass(frozen=True)
class DataSet:
    """What a user calls it: the repository, words of the file's path, and the column of texts."""

    repository: str
    within: tuple[str, ...] = ()
    column: str | None = None

    @classmethod
    def of(cls, given: str, where: str = "corpus") -> DataSet:
        """Raises InputProblems, naming the option `where`, for what has another form."""
        place, _, column = given.removeprefix(PREFIX).partition(":")
        owner, name, *within = [*place.split("/"), ""][:-1] if "/" in place else ("", "")
        if not (given.startswith(PREFIX) and owner and name and all(within)):
            remedy = f"Give {FORM}, such as hub:Salesforce/wikitext/train:text."
            raise InputProblems([Problem(where, f"{given!r} names no data set", remedy)])
        return cls(f"{owner}/{name}", tuple(within), column or None)

    @property
    def place(self) -> str:
        """Without the column: what is fetched."""
        return PREFIX + "/".join((self.repository, *self.within))

    @property
    def pin(self) -> Path:
        """Where it stands which file was fetched."""
        return cache_dir() / "corpora" / "hub" / f"{folder_name(self.place)}.json"


def pull_data_set(given: str, progress: Notify = ignore) -> Path:
    """Fetch the first file of a data set's split, as the hub has it now; returns it.

    Raises InputProblems for a split that is not there, ModelError for a gate, an unknown name, a
    hub out of reach or a full disk.
    """
    from huggingface_hub import HfApi, hf_hub_download

    one = DataSet.of(given)
    with hub_errors(one.repository, "data set"):
        about = HfApi().dataset_info(one.repository, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in about.siblings or []}
        file = _first_file(one, list(sizes))
        progress(f"fetching {file} of {one.repository} ({sizes[file] / 1e6:.1f} MB)")
        require_space(cache_dir(), sizes[file])
        path = Path(hf_hub_download(one.repository, file, repo_type="dataset", revision=about.sha))
    pinned = {
        "data_set": one.repository,
        "revision": about.sha,
        "file": file,
        "sha256": sha256_of(path),
    }
    write_text(one.pin, json.dumps(pinned, indent=2) + "\n")
    return path


def _first_file(one: DataSet, paths: Sequence[str]) -> str:
    """The first file that can be read and whose path holds the words: of `train`, unless said."""
    readable = sorted(path for path in paths if path.endswith(_READ) and not _is_about(path))
    wanted = one.within or ("train",)
    found = [path for path in readable if all(_holds(path, word) for word in wanted)]
    if not found and not one.within and not any(_holds(p, s) for p in readable for s in _SPLITS):
        found = readable  # it has no splits
    if not found:
        what = f"{one.repository} has no file of {'/'.join(wanted)}"
        there = f"It has {', '.join(readable[:_SHOWN])}" if readable else "It has none at all"
        remedy = f"{there} that is {', '.join(_READ)}. Give {FORM}."
        raise InputProblems([Problem("corpus", what, remedy)])
    return found[0]


_SPLITS = ("train", "validation", "valid", "dev", "test")


def _holds(path: str, word: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", path) is not None


def _is_about(path: str) -> bool:
    """A text about the data set, not of it."""
    return PurePosixPath(path).stem.lower() in ("readme", "license", "requirements")


def hub_texts(
    given: str, whole: bool = False
) -> tuple[list[tuple[str, str]], list[Problem], dict[str, Any]]:
    """(where it stands, text), files not readable, and what a manifest says of the data set.

    Of its file the first rows; or `whole`, and rows that are lines of a running text put together
    as a text file is.

    Raises InputProblems for a data set that was not fetched, or has no such column.
    """
    one = DataSet.of(given)
    path, pinned = pinned_file(one)
    if pinned["file"].endswith(".txt"):
        texts, problems = text_files(path)
        return texts, problems, {"hub": pinned}
    rows = _parquet(path) if path.suffix == ".parquet" else _json_lines(path)
    try:
        table = list(rows if whole else islice(rows, _MOST_ROWS))
    except (OSError, ValueError) as error:
        what, remedy = f"{pinned['file']} cannot be read ({first_line(error)})", "Give another."
        raise InputProblems([Problem(one.place, what, remedy)]) from error
    column = _column(one, table)
    texts = _texts(pinned["file"], table, column)
    if whole and _are_lines(texts):
        texts = in_parts(pinned["file"], "".join(text or "\n" for _, text in texts))
    return texts, [], {"hub": pinned | {"column": column, "n_rows": len(table)}}


def pinned_file(one: DataSet, where: str = "corpus") -> tuple[Path, dict[str, Any]]:
    """The file of a data set that was fetched, and what is known of it: revision, name, hash.

    Raises InputProblems where it was not fetched, RecordsError where it was altered since.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        pinned = read_json(one.pin)
        path = try_to_load_from_cache(
            one.repository, pinned["file"], repo_type="dataset", revision=pinned["revision"]
        )
    except (OSError, ValueError, LookupError, TypeError):
        path = None
    if not isinstance(path, str):
        what, remedy = (
            f"{one.place} is not on this machine",
            f"Fetch it: lensbench pull {one.place}",
        )
        raise InputProblems([Problem(where, what, remedy)])
    if sha256_of(Path(path)) != pinned["sha256"]:
        raise RecordsError(f"{path}: it was altered. Fetch it again: lensbench pull {one.place}")
    return Path(path), pinned


def _texts(file: str, rows: Sequence[dict[str, Any]], column: str) -> list[tuple[str, str]]:
    return [
        (f"{file}, row {number}", row[column])
        for number, row in enumerate(rows)
        if isinstance(row.get(column), str)
    ]


def _are_lines(texts: Sequence[tuple[str, str]]) -> bool:
    """Whether each row is a line with its end, or empty: so WikiText has its articles."""
    return all(text.endswith("\n") or not text for _, text in texts)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(path)
    names = [one.name for one in file.schema_arrow if pa.types.is_string(one.type)]
    names += [one.name for one in file.schema_arrow if pa.types.is_large_string(one.type)]
    for batch in file.iter_batches(columns=names):
        yield from batch.to_pylist()


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip() and isinstance(row := parse_json(line), dict):
                yield row


def _column(one: DataSet, rows: Sequence[dict[str, Any]]) -> str:
    """The column that is named; else `text`, or the only one of texts."""
    columns = dict.fromkeys(key for row in rows for key, own in row.items() if isinstance(own, str))
    if one.column in columns:
        return str(one.column)
    if one.column is None and ("text" in columns or len(columns) == 1):
        return "text" if "text" in columns else next(iter(columns))
    asked = f"no column {one.column!r} of texts" if one.column else "several columns of texts"
    what = f"{one.repository} has {asked if columns else 'no column of texts'}"
    remedy = (
        f"It has: {', '.join(columns)}. Give {one.place}:COLUMN." if columns else "Give another."
    )
    raise InputProblems([Problem("corpus", what, remedy)])
