"""Which examples are learnt from and which are tested: of each label a share, no text in both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lensbench.classification.examples import Example
from lensbench.errors import InputProblems, Problem
from lensbench.quantized.data.pairs import Pair
from lensbench.quantized.data.split import bunches

NEAR = 0.5  # Jaccard similarity of 5-character pieces: short sentences that share most words


@dataclass(frozen=True)
class Parted:
    """Examples to learn from and to be tested on; `bunches` names what is drawn of the latter."""

    train: list[Example]
    test: list[Example]
    bunches: dict[str, str]  # id of a tested example -> the bunch that it belongs to


def parted(examples: Sequence[Example], share: float, seed: int, name: str) -> Parted:
    """About `share` of each label's examples to be tested on; the seed alone decides which.

    Examples of one group, of the same text or nearly the same stay together, as one bunch.

    Raises InputProblems naming every label that has too few examples for both.
    """
    pairs = [Pair(one.id, one.text, "", group=one.group) for one in examples]
    own = bunches(pairs, NEAR)
    order = np.random.default_rng(seed).permutation(max(own) + 1)
    wanted = {label: share * n for label, n in _counts(examples).items()}
    members: dict[int, list[Example]] = defaultdict(list)
    for bunch, example in zip(own, examples, strict=True):
        members[bunch].append(example)
    tested: set[int] = set()
    taken = Counter[str]()
    for bunch in map(int, order):
        inside = _counts(members[bunch])
        if all(taken[label] + n / 2 <= wanted[label] for label, n in inside.items()):
            tested.add(bunch)
            taken += inside
    marked = list(zip(own, examples, strict=True))
    train = [example for bunch, example in marked if bunch not in tested]
    test = [example for bunch, example in marked if bunch in tested]
    _require_both(examples, train, test, name)
    names = {bunch: members[bunch][0].id for bunch in tested}
    return Parted(train, test, {e.id: names[bunch] for bunch, e in marked if bunch in tested})


def _counts(examples: Sequence[Example]) -> Counter[str]:
    """How many there are of each label."""
    return Counter(example.label for example in examples)


def _require_both(
    examples: Sequence[Example], train: Sequence[Example], test: Sequence[Example], name: str
) -> None:
    """Every label is there to be learnt, and to be tested."""
    learnt, asked = _counts(train), _counts(test)
    problems = [
        Problem(
            f"{name}, label {label[:40]!r}",
            f"{_number_of('example', n)}, of which {learnt[label]} to learn from and "
            f"{asked[label]} to be tested on",
            "Give more examples of it that are not alike, or another `test_share`.",
        )
        for label, n in sorted(_counts(examples).items())
        if not (learnt[label] and asked[label])
    ]
    if len(examples) < 2 * len(_counts(examples)):
        n_labels = _number_of("label", len(_counts(examples)))
        what = f"{_number_of('example', len(examples))} of {n_labels}"
        problems.insert(0, Problem(name, what, "Give two of each label at the least."))
    if problems:
        raise InputProblems(problems)


def _number_of(noun: str, n: int) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
