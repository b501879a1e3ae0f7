"""Gold pairs: which word of a sentence belongs to which, from the column `pairs` of a prompt set.

`subject-verb: keys > are ! house; determiner-noun: the/2 > hallway` names the dependent, its head
and, behind `!`, a distractor where the sentence has one: another word of the kind of the earlier of
the two, that stands before the later one, and that it could be but is not. `the/2` is the second
"the" of the sentence; a word that stands there once needs no number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lensbench.errors import Problem
from lensbench.prompts.prompt import Prompt
from lensbench.prompts.words import words_of

COLUMN = "pairs"
PHENOMENA = {
    "subject-verb": "a subject and its verb: the full verb, or the copula where there is no other",
    "determiner-noun": "an article, demonstrative or quantifier and its noun",
    "verb-object": "the direct object of a verb and that verb",
    "preposition-object": "the noun of a prepositional phrase and its preposition",
    "pronoun-antecedent": "a personal, possessive or reflexive pronoun and who or what it means",
    "negation-scope": "a negating word and the word that it negates",
}
_PAIR = re.compile(
    r"(?P<phenomenon>[^:]+): (?P<dependent>\S+) > (?P<head>\S+)(?: ! (?P<other>\S+))?"
)
_WRITE = "Write it as in subject-verb: keys > are ! house, several with a semicolon between."


@dataclass(frozen=True)
class Pair:
    """Two words of a sentence that belong together, by their number among its words."""

    phenomenon: str
    dependent: int
    head: int
    distractor: int | None = None

    @property
    def earlier(self) -> int:
        """The word that a head finds when it looks back from the later one."""
        return min(self.dependent, self.head)

    @property
    def later(self) -> int:
        """The only one of the two that a causal model can ask about the other."""
        return max(self.dependent, self.head)

    @property
    def head_first(self) -> bool:
        """Whether a causal model can look from the dependent to its head."""
        return self.head < self.dependent


def gold_pairs(prompt: Prompt, where: str) -> tuple[list[Pair], list[Problem]]:
    """The gold pairs of a row, and what is wrong with others; both are empty where it names none.

    Args:
        where: the prompt set, for problems.
    """
    words = words_of(prompt.prompt)
    texts = [prompt.prompt[start:end] for start, end in words]
    row = f"row {prompt.row}, " if prompt.row else ""
    pairs, problems = [], []
    for given in prompt.extra.get(COLUMN, "").split(";"):
        if not given.strip():
            continue
        try:
            pairs.append(_pair(given.strip(), texts))
        except _Unreadable as error:
            place = f"{where}, {row}id {prompt.id}, {given.strip()!r}"
            problems.append(Problem(place, error.what, error.remedy, prompt.id))
    return pairs, problems


@dataclass
class _Unreadable(Exception):
    """A pair that is none, and what to do."""

    what: str
    remedy: str


def _pair(given: str, texts: Sequence[str]) -> Pair:
    found = _PAIR.fullmatch(given)
    if found is None:
        raise _Unreadable("this is no gold pair", _WRITE)
    if found["phenomenon"] not in PHENOMENA:
        what = f"there is no phenomenon {found['phenomenon']!r}"
        raise _Unreadable(what, f"Choose from {', '.join(PHENOMENA)}.")
    dependent, head = _place(found["dependent"], texts), _place(found["head"], texts)
    other = None if found["other"] is None else _place(found["other"], texts)
    pair = Pair(found["phenomenon"], dependent, head, other)
    if dependent == head or other in (dependent, head):
        raise _Unreadable("a word stands in it twice", "Name different words.")
    if other is not None and other > pair.later:
        what = f"the distractor {found['other']!r} stands behind both words"
        raise _Unreadable(what, "A causal model cannot look there: name an earlier one, or none.")
    return pair


def _place(name: str, texts: Sequence[str]) -> int:
    """The number of a word, by its name: "house", or "the/2" for the second of several."""
    word, _, which = name.partition("/")
    places = [number for number, text in enumerate(texts) if text == word]
    if not places:
        raise _Unreadable(f"{word!r} is no word of the sentence", "Write it as it stands there.")
    if not which and len(places) > 1:
        what = f"{word!r} stands there {len(places)} times"
        raise _Unreadable(what, f"Say which one: {word}/1 to {word}/{len(places)}.")
    if which and not (which.isdecimal() and 1 <= int(which) <= len(places)):
        raise _Unreadable(f"there is no {name!r}", f"{word!r} stands there {len(places)} times.")
    return places[int(which) - 1 if which else 0]
