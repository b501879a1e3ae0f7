"""Text files as documents: one a file, cut at blank lines where it is long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lensbench.errors import Problem

_SUFFIXES = {".txt", ".md", ".rst"}
_TABLES = {".csv", ".tsv", ".json", ".jsonl", ".ndjson"}  # of which a text is but a cell
_LONGEST = 4_000  # characters; a longer text is cut at the next blank line


def text_files(place: Path) -> tuple[list[tuple[str, str]], list[Problem]]:
    """(where it stands, text) of one text file or of all in a folder, and those not readable."""
    found, problems = [], []
    folder = place if place.is_dir() else place.parent
    paths = sorted(p for p in place.rglob("*") if p.suffix in _SUFFIXES) if place.is_dir() else None
    for path in paths if paths is not None else [place]:
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in _TABLES:
            what = "holds rows of cells, whose quotes, braces and numbers would be read as text"
            problems.append(Problem(name, what, "Write each text to a .txt file of a folder."))
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            what = f"is no UTF-8 text (byte {error.start:,}: {error.reason})"
            problems.append(Problem(name, what, "Save it as UTF-8, or leave it out."))
            continue
        if "\0" in text:
            problems.append(Problem(name, "holds a NUL byte", "Save it as UTF-8 text."))
            continue
        found += in_parts(name, text)
    return found, problems


def in_parts(name: str, text: str) -> list[tuple[str, str]]:
    """A text in pieces of whole paragraphs, each with where it stands."""
    return [(f"{name}, part {number}", part) for number, part in enumerate(_parts(text), 1)]


def _parts(text: str) -> Iterator[str]:
    piece = ""
    for paragraph in text.split("\n\n"):
        if piece and len(piece) + len(paragraph) > _LONGEST:
            yield piece
            piece = ""
        piece += f"\n\n{paragraph}" if piece else paragraph
    yield piece
