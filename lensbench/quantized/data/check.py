"""What is wrong with training data: rows that are too much alike, and leaks between files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lensbench.quantized.data.near import NEAR, near_pairs, normalise, pair_text
from lensbench.quantized.data.pairs import Pair, PairSet

Kind = Literal["duplicate", "near duplicate", "other response", "leak", "near leak", "shared group"]

# What each kind means. All but "other response" are faults.
KINDS: dict[Kind, str] = {
    "duplicate": "the same question and response twice",
    "near duplicate": "question and response together nearly the same",
    "other response": "the same question with another response",
    "leak": "a question that another file asks too",
    "near leak": "question and response together nearly those of another file's row",
    "shared group": "a group with rows in another file too",
}
FAULTS = frozenset(KINDS) - {"other response"}


@dataclass(frozen=True)
class Match:
    """Two rows that are too much alike, each as `file, row, id`."""

    kind: Kind
    first: str
    second: str
    similarity: float  # 0..1, of question and response together; 1 for what is equal


@dataclass(frozen=True)
class _Place:
    """One row, and the file that it stands in by number; 0 is the file that is checked."""

    file: int
    name: str
    pair: Pair
    question: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}, row {self.pair.row}, id {self.pair.id}"


def matches(data: PairSet, against: Sequence[PairSet] = (), near: float = NEAR) -> list[Match]:
    """Rows that are too much like an earlier row of `data`, in it or in one of the other files.

    Equal means equal after `near.normalise`; near means a similarity of at least `near` (0..1, see
    `near.near_pairs`). A row is reported against the first one that it equals.
    """
    places = [
        _Place(
            file,
            pairs.name,
            pair,
            normalise(pair.question),
            pair_text(pair.question, pair.response),
        )
        for file, pairs in enumerate([data, *against])
        for pair in pairs.pairs
    ]
    return [*_equal(places), *_near(places, near), *_shared_groups(places)]


def _equal(places: Sequence[_Place]) -> Iterator[Match]:
    """Rows that ask what an earlier row of the checked file asks."""
    texts: dict[str, _Place] = {}
    questions: dict[str, _Place] = {}
    for place in places:
        if place.file > 0:  # all rows of the checked file are known by now
            if place.question in questions:
                yield Match("leak", str(questions[place.question]), str(place), 1.0)
            continue
        same_text = texts.setdefault(place.text, place)
        same_question = questions.setdefault(place.question, place)
        if same_text is not place:
            yield Match("duplicate", str(same_text), str(place), 1.0)
        elif same_question is not place:
            yield Match("other response", str(same_question), str(place), 1.0)


def _near(places: Sequence[_Place], threshold: float) -> Iterator[Match]:
    """Rows that are alike without asking the same; equal ones take part once per file."""
    unique = list({(place.file, place.text): place for place in reversed(places)}.values())[::-1]
    for i, j, similarity in sorted(near_pairs([place.text for place in unique], threshold)):
        first, second = unique[i], unique[j]
        if first.file == 0 and first.question != second.question:
            kind: Kind = "near duplicate" if second.file == 0 else "near leak"
            yield Match(kind, str(first), str(second), similarity)


def _shared_groups(places: Sequence[_Place]) -> Iterator[Match]:
    own = {place.pair.group: place for place in reversed(places) if place.file == 0}
    other = {
        (place.pair.group, place.file): place
        for place in reversed(places)
        if place.file > 0 and place.pair.group in own
    }
    for (group, _), place in reversed(other.items()):
        if group is not None:
            yield Match("shared group", str(own[group]), f"{place}, group {group}", 1.0)


def counts(alike: Sequence[Match]) -> dict[str, int]:
    """How many matches there are of each kind."""
    return {kind: sum(match.kind == kind for match in alike) for kind in KINDS}
