"""Pairs of texts that are to be compared: those that ship with lensbench, or a file's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lensbench.errors import InputProblems, Problem
from lensbench.files import sha256_of
from lensbench.prompts.rows import Row, place, read_rows, sound_rows, text_problems
from lensbench.prompts.scripts import count_words

SHIPPED = "published"
_DATA = resources.files("lensbench").joinpath("embeddings", "data", "pairs.csv")
_COLUMNS = ("id", "a", "b")
_GUESS = "published"


@dataclass(frozen=True)
class Pair:
    """Two texts, and the cosine that somebody has published of them, if anybody has."""

    id: str
    a: str
    b: str
    published: float | None = None

    @property
    def of_words(self) -> bool:
        """Whether both are single words, as far as their scripts put spaces between words."""
        return all(count_words(text) == 1 for text in (self.a, self.b))


@dataclass(frozen=True)
class PairSet:
    """The good rows of a file, and what is wrong with the others."""

    name: str
    sha256: str
    pairs: list[Pair]
    problems: list[Problem]

    @property
    def texts(self) -> list[str]:
        """Every text once, in the order of the file."""
        return list(dict.fromkeys(text for pair in self.pairs for text in (pair.a, pair.b)))


def load_pairs(source: str) -> PairSet:
    """The shipped pairs, or those of a file (.csv, .jsonl, .json) with columns id, a, b.

    A further column `published` may hold a cosine that was said before. Rows that cannot be used
    are problems; a pair that stands twice, either way round, is one.

    Raises InputProblems for no such file, missing columns, or not one row that can be used.
    """
    path = Path(str(_DATA)) if source == SHIPPED else Path(source)
    if not path.is_file():
        what = "there is no such file"
        raise InputProblems([Problem(source, what, f"Give a .csv of pairs, or {SHIPPED}.")])
    name = SHIPPED if source == SHIPPED else path.name
    problems: list[Problem] = []
    rows = read_rows(path, name, problems, _COLUMNS, (_GUESS,))
    pairs = list(_pairs(sound_rows(rows, name, problems, _COLUMNS[1:]), name, problems))
    if not pairs:
        nothing = Problem(name, "not one row can be used", "Give pairs of texts.")
        raise InputProblems(problems or [nothing])
    return PairSet(name, sha256_of(path), pairs, problems)


def given_pairs(texts: Sequence[str]) -> list[Pair]:
    """Every text with every other.

    Raises InputProblems for fewer than two, and with all that are empty, no text, or there twice.

    >>> [pair.id for pair in given_pairs(["a", "b", "c"])]
    ['1-2', '1-3', '2-3']
    """
    if len(texts) < 2:
        what = "there is nothing to compare: one text has an angle with no other"
        raise InputProblems([Problem("texts", what, "Give two texts or more.")])
    numbered = enumerate(texts, start=1)
    problems = [one for n, text in numbered for one in text_problems(text, f"text {n}")]
    what, remedy = "it stands twice: a text is 1 to itself", "Give it once."
    twice = sorted({text for text in texts if texts.count(text) > 1})
    problems += [Problem(f"text {text[:40]!r}", what, remedy) for text in twice]
    if problems:
        raise InputProblems(problems)
    return [
        Pair(f"{i + 1}-{j + 1}", a, texts[j])
        for i, a in enumerate(texts)
        for j in range(i + 1, len(texts))
    ]


def _pairs(rows: Iterator[Row], name: str, problems: list[Problem]) -> Iterator[Pair]:
    seen: dict[frozenset[str], int] = {}
    for line, cells in rows:
        a, b = cells["a"].strip(), cells["b"].strip()
        where, guess = place(name, line, cells["id"]), _number(cells.get(_GUESS, ""))
        if a == b:
            what, remedy = "both texts are the same: their cosine is 1", "Delete the row."
        elif (both := frozenset((a, b))) in seen:
            what, remedy = f"the pair stands in row {seen[both]} already", "Delete the row."
        elif guess is not None and not -1 <= guess <= 1:  # NaN too
            what, remedy = f"{_GUESS} is {cells[_GUESS]!r}", "Give a number from -1 to 1."
        else:
            seen[both] = line
            yield Pair(cells["id"], a, b, guess)
            continue
        problems.append(Problem(where, what, remedy, cells["id"]))


def _number(cell: str) -> float | None:
    """None of an empty cell, NaN of what is no number."""
    try:
        return float(cell) if cell.strip() else None
    except ValueError:
        return math.nan
