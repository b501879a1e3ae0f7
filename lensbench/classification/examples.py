"""Labelled texts: those that ship with lensbench, film sentences read in place, or a file's."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np

from lensbench.classification.hub import hub_rows, is_hub
from lensbench.classification.spec import SHIPPED
from lensbench.errors import InputProblems, Problem
from lensbench.files import package_folder, sha256_of
from lensbench.prompts.rows import Row, place, read_rows, sound_rows
from lensbench.spec import nearest

PANG_LEE = "pang-lee"  # 200 sentences of film reviews (Pang & Lee 2005), in the package gensim
_DATA = resources.files("lensbench").joinpath("classification", "data", "reviews.csv")
_FILM_LABELS = {"__label__pos": "positive", "__label__neg": "negative"}
_NEEDED, _OPTIONAL = ("text", "label"), ("id", "group")


@dataclass(frozen=True)
class Example:
    """A text and its label. Those of one `group` are never parted between training and test."""

    id: str
    text: str
    label: str
    group: str | None = None


@dataclass(frozen=True)
class LabelledSet:
    """The good rows of a source, and what is wrong with the others."""

    name: str
    sha256: str
    examples: list[Example]
    problems: list[Problem]

    @property
    def labels(self) -> list[str]:
        """Each once, in the order of the alphabet."""
        return sorted({example.label for example in self.examples})

    def at_most(self, limit: int | None, seed: int) -> LabelledSet:
        """At most so many of them, as many of each label as there are, drawn by the seed."""
        if limit is None or limit >= len(self.examples):
            return self
        order = np.random.default_rng(seed).permutation(len(self.examples))
        by_label: dict[str, list[int]] = defaultdict(list)
        for i in order:
            by_label[self.examples[i].label].append(int(i))
        turns = ((turn, label) for label, own in by_label.items() for turn in range(len(own)))
        kept = {by_label[label][turn] for turn, label in sorted(turns)[:limit]}
        return replace(self, examples=[e for i, e in enumerate(self.examples) if i in kept])


def load_labelled(source: str) -> LabelledSet:
    """The shipped sentences, those in gensim, a data set of the hub that was fetched, or a file's.

    A file is .csv, .jsonl or .json with text and label, and may have columns `id` and `group`
    besides. Rows that cannot be used are problems: an empty text or label, and a text that stands
    there with another label before.

    Raises InputProblems for no such file, missing columns, one label only, or labels that differ
    in case or space alone; MissingExtraError without gensim, for its sentences.
    """
    if source == PANG_LEE:
        return _film_sentences()
    problems: list[Problem] = []
    if is_hub(source):
        name, digest, listed = hub_rows(source)
        return _labelled(listed, name, digest, problems)
    path = Path(str(_DATA)) if source == SHIPPED else Path(source)
    if not path.is_file():
        what = "there is no such file, nor are shipped texts called so"
        remedy = f"{nearest(source, (SHIPPED, PANG_LEE))} Or give a .csv of text and label."
        raise InputProblems([Problem(source, what, remedy)])
    name = SHIPPED if source == SHIPPED else path.name
    rows = _named(read_rows(path, name, problems, _NEEDED, _OPTIONAL))
    return _labelled(rows, name, sha256_of(path), problems)


def load_every(sources: Iterable[str]) -> list[LabelledSet]:
    """Several sets. Raises as `load_labelled`, InputProblems with what is wrong in any of them."""
    found: list[LabelledSet] = []
    problems: list[Problem] = []
    for source in sources:
        try:
            found.append(load_labelled(source))
        except InputProblems as error:
            problems += error.problems
    if problems:
        raise InputProblems(problems)
    return found


def given_labelled(pairs: Iterable[tuple[str, str]]) -> LabelledSet:
    """Texts with their labels as they are in Python. Raises InputProblems as `load_labelled`."""
    listed = [(str(text), str(label)) for text, label in pairs]
    rows = [
        (number, {"id": str(number), "text": text, "label": label})
        for number, (text, label) in enumerate(listed, start=1)
    ]
    digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    return _labelled(rows, "texts", digest, [])


def _film_sentences() -> LabelledSet:
    """Their text stands in no record: the package's own terms hold for it."""
    path = package_folder("gensim", "classify") / "test" / "test_data" / "pang_lee_polarity.cor"
    if not path.is_file():
        what = "this gensim does not hold them (test/test_data)"
        raise InputProblems([Problem(PANG_LEE, what, f"Give a file, or {SHIPPED}.")])
    text = path.read_text(encoding="cp1252")  # as they were published
    lines = [line.partition(" ") for line in text.split("\n") if line.strip()]
    examples = [
        Example(f"film{n:03d}", text.strip(), _FILM_LABELS[label])
        for n, (label, _, text) in enumerate(lines, start=1)
    ]
    return LabelledSet(PANG_LEE, sha256_of(path), examples, [])


def _named(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of a file without ids are called by their line."""
    for line, cells in rows:
        yield line, {"id": f"row{line}"} | cells


def _labelled(rows: Iterable[Row], name: str, sha256: str, problems: list[Problem]) -> LabelledSet:
    """What of some rows can be used. Raises InputProblems where nothing could be learnt of it."""
    examples = list(_examples(sound_rows(rows, name, problems, _NEEDED), name, problems))
    found = LabelledSet(name, sha256, examples, problems)
    if not examples:
        nothing = Problem(name, "not one row can be used", "Give texts with labels.")
        raise InputProblems(problems or [nothing])
    if wrong := list(_label_problems(name, found.labels)):
        raise InputProblems([*problems, *wrong])
    return found


def _examples(rows: Iterable[Row], name: str, problems: list[Problem]) -> Iterator[Example]:
    seen: dict[str, tuple[int, str]] = {}
    for line, cells in rows:
        text, label = cells["text"], cells["label"].strip()
        before, other = seen.setdefault(text.strip(), (line, label))
        if other != label:
            what = f"its text stands in row {before} with the label {other[:40]!r}"
            where = place(name, line, cells["id"])
            problems.append(Problem(where, what, "Keep one of them.", cells["id"]))
            continue
        yield Example(cells["id"], text, label, cells.get("group", "").strip() or None)


def _label_problems(name: str, labels: Sequence[str]) -> Iterator[Problem]:
    if len(labels) == 1:
        what = f"every text has the label {labels[0][:40]!r}"
        yield Problem(name, what, "Give texts of two labels or more: there is nothing to tell.")
    plain = {label: " ".join(label.casefold().split()) for label in labels}
    times = Counter(plain.values())
    if twice := [label for label in labels if times[plain[label]] > 1]:
        what = f"the labels {', '.join(map(repr, twice))} differ in case or space alone"
        yield Problem(name, what, "Write each label in one way.")
