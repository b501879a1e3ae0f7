"""Sentences in which the same word stands: of two senses, or of one sense in two subjects.

What tells the sense stands before the word, since a model that reads one way sees no more there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lensbench.errors import InputProblems, Problem
from lensbench.files import sha256_of
from lensbench.prompts.rows import place, read_rows, row_problems
from lensbench.prompts.words import words_of
from lensbench.records.schema.text.embeddings import SPLITS

SHIPPED = "senses"
SENSES, SUBJECTS, HALVES = SPLITS
LEAST = 2  # sentences a group
_DATA = resources.files("lensbench").joinpath("embeddings", "data", "senses.csv")
_COLUMNS = ("word", "kind", "group", "sentence")


@dataclass(frozen=True)
class Sentence:
    """A sentence and which of its words is meant; `kind` says what its groups are."""

    word: str
    kind: str
    group: str
    text: str
    place: int  # of the word among the sentence's words, from 0


@dataclass(frozen=True)
class SenseSet:
    """The sentences of a file, and what is wrong with others."""

    name: str
    sha256: str
    sentences: list[Sentence]
    problems: list[Problem]


@dataclass(frozen=True)
class Split:
    """The sentences of one word in two groups, by their numbers in the set."""

    word: str
    kind: str
    a: tuple[int, ...]
    b: tuple[int, ...]


def load_senses(source: str = SHIPPED) -> SenseSet:
    """The shipped sentences, or a file's (.csv, .jsonl, .json): word, kind, group, sentence.

    `kind` is senses (groups are two meanings) or subjects (one meaning, two subjects). Sentences
    in which the word does not stand exactly once, or that stand there before, are problems, and so
    are all of a word that has not two groups of two or more.

    Raises InputProblems for no such file, missing columns, or not one word of two groups.
    """
    path = Path(str(_DATA)) if source == SHIPPED else Path(source)
    if not path.is_file():
        what = "there is no such file"
        raise InputProblems([Problem(source, what, f"Give a .csv of sentences, or {SHIPPED}.")])
    name = SHIPPED if source == SHIPPED else path.name
    problems: list[Problem] = []
    found = list(_sentences(path, name, problems))
    kept = list(_of_two_groups(found, name, problems))
    if not kept:
        nothing = Problem(name, "not one word has two groups", "Give sentences of two senses.")
        raise InputProblems(problems or [nothing])
    return SenseSet(name, sha256_of(path), kept, problems)


def _sentences(path: Path, name: str, problems: list[Problem]) -> Iterator[Sentence]:
    seen: dict[str, int] = {}
    for line, cells in read_rows(path, name, problems, _COLUMNS):
        where = place(name, line, "")
        wrong = [*row_problems({**cells, "id": str(line)}, _COLUMNS, {})]
        word, text = cells["word"].strip(), cells["sentence"].strip()
        places = find(word, text)
        if not wrong and cells["kind"] not in (SENSES, SUBJECTS):
            wrong = [(f"the kind is {cells['kind']!r}", f"Write {SENSES} or {SUBJECTS}.")]
        elif not wrong and len(places) != 1:
            times = f"stands {len(places)} times" if places else "is not"
            wrong = [(f"the word {word!r} {times} in its sentence", "It has to stand there once.")]
        elif not wrong and text in seen:
            wrong = [(f"the sentence is that of row {seen[text]}", "Write another.")]
        problems += [Problem(where, what, remedy) for what, remedy in wrong]
        if not wrong:
            seen[text] = line
            yield Sentence(word, cells["kind"], cells["group"].strip(), text, places[0])


def find(word: str, text: str) -> list[int]:
    """Where a word stands among the words of a text, in capitals or not.

    >>> find("bank", "Bank holidays, and the bank's river bank.")
    [0, 5]
    """
    return [
        number
        for number, (start, end) in enumerate(words_of(text))
        if text[start:end].casefold() == word.casefold()
    ]


def _of_two_groups(
    sentences: list[Sentence], name: str, problems: list[Problem]
) -> Iterator[Sentence]:
    for word, own in _by_word(sentences).items():
        groups = [one.group for one in own]
        sizes = {group: groups.count(group) for group in dict.fromkeys(groups)}
        if len({one.kind for one in own}) > 1:
            what = "it has senses and subjects"
        elif len(sizes) != 2 or min(sizes.values()) < LEAST:
            told = ", ".join(f"{group} {n}" for group, n in sizes.items())
            what = f"it has not two groups of {LEAST} sentences or more ({told})"
        else:
            yield from own
            continue
        problems.append(Problem(f"{name}, word {word!r}", what, "It is left out."))


def _by_word(sentences: Iterable[Sentence]) -> dict[str, list[Sentence]]:
    found: dict[str, list[Sentence]] = {}
    for sentence in sentences:
        found.setdefault(sentence.word, []).append(sentence)
    return found


def splits(sentences: list[Sentence], kept: set[int] | None = None) -> list[Split]:
    """The two groups of each word; of a word of one sense also two halves that mix its subjects.

    `kept`: the sentences that were read, by number; words of which too few are left out.
    """
    numbers: dict[str, list[int]] = {}
    for number, sentence in enumerate(sentences):
        if kept is None or number in kept:
            numbers.setdefault(sentence.word, []).append(number)
    found = []
    for word, own in numbers.items():
        kind, first = sentences[own[0]].kind, sentences[own[0]].group
        a = tuple(n for n in own if sentences[n].group == first)
        b = tuple(n for n in own if sentences[n].group != first)
        found.append(Split(word, kind, a, b))
        if kind == SUBJECTS:
            found.append(Split(word, HALVES, a[0::2] + b[0::2], a[1::2] + b[1::2]))
    return [one for one in found if min(len(one.a), len(one.b)) >= LEAST]
