"""Questions put to a model: sentences read in batches, and what every head answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lensbench.attention.gate import ERROR, not_finite
from lensbench.attention.patterns import Patterns, Seen
from lensbench.attention.phenomena.questions import (
    Direction,
    Question,
    Sentence,
    answers,
    compiled,
    questions,
)
from lensbench.errors import Problem
from lensbench.lens.gate import worst
from lensbench.prompts.encode import EncodedPrompt
from lensbench.prompts.gold import COLUMN, gold_pairs
from lensbench.prompts.words import align
from lensbench.records.parts import Part
from lensbench.records.schema.phenomena import ANSWERS

TRAINED, UNTRAINED = "trained", "untrained"
_NO_PAIRS = Problem(
    "sentences",
    f"none of them says in a column '{COLUMN}' which words belong together",
    "See the shipped set `sentences`, or leave --sentences out.",
)


@dataclass(frozen=True)
class Asked:
    """A sentence under one tokenizer, and what is asked about its words."""

    prompt_id: str
    token_ids: tuple[int, ...]
    questions: tuple[Question, ...]
    sentence: Sentence


@dataclass(frozen=True)
class Asking:
    """One batch of sentences, asked of the model or of the same without training."""

    who: str  # TRAINED or UNTRAINED
    asked: tuple[Asked, ...]


Check = Callable[[Sequence[int]], Callable[[Seen], float]]  # of a prompt: its row errors


def asked_of(
    source: Patterns,
    encoded: Sequence[EncodedPrompt],
    directions: Sequence[Direction],
    where: str,
) -> tuple[list[Asked], list[Problem]]:
    """The sentences that there is something to ask about.

    Words that cannot be aligned, and pairs that are none, are problems; sentences without any pair
    are passed over, unless all are.

    Args:
        where: the prompt set, for problems.
    """
    found, problems = list[Asked](), list[Problem]()
    for item in encoded:
        pairs, wrong = gold_pairs(item.prompt, where)
        problems += wrong
        if not pairs:
            continue
        place = f"{where}, id {item.prompt.id}"
        words = align(source.model.tokenizer, item.text, item.token_ids, place)
        problems += words.problems
        own = questions(pairs, words, directions)
        if own:
            n_tokens = len(item.token_ids)
            sentence = compiled(own, words, n_tokens)
            found.append(Asked(item.prompt.id, item.token_ids, tuple(own), sentence))
    return found, problems if found or problems else [_NO_PAIRS]


class _Answers:
    """The answers to a batch, gathered as its blocks come by."""

    def __init__(self, check: Check, asking: Asking, weightings: Sequence[str]) -> None:
        self._checks = [check(one.token_ids) for one in asking.asked]
        self._asking = asking
        self._weightings = weightings
        self._found: dict[tuple[int, str], list[tuple[np.ndarray, np.ndarray]]] = {}
        self.broken: set[int] = set()
        self.errors: list[float] = []

    def see(self, seen: Seen) -> None:
        """Ask the heads of one block about one sentence."""
        if not bool(seen.pattern.isfinite().all()):
            self.broken.add(seen.number)
            return
        self.errors.append(self._checks[seen.number](seen))
        for weighting in self._weightings:
            found = answers(seen.weighted(weighting), self._asking.asked[seen.number].sentence)
            each = found.right.cpu().numpy(), found.above_distractor.cpu().numpy()
            self._found.setdefault((seen.number, weighting), []).append(each)

    def table(self, model: str) -> pa.Table:
        """One row per sentence, weighting and question."""
        rows = []
        for (number, weighting), blocks in sorted(self._found.items()):
            one = self._asking.asked[number]
            right, above = (np.concatenate(part, axis=1) for part in zip(*blocks, strict=True))
            for i, question in enumerate(one.questions if number not in self.broken else ()):
                rows.append(
                    {
                        "model": model,
                        "who": self._asking.who,
                        "prompt_id": one.prompt_id,
                        "weighting": weighting,
                        "phenomenon": question.phenomenon,
                        "direction": question.direction,
                        "query": question.query,
                        "offset": question.offset,
                        "n_candidates": len(question.candidates),
                        "right": right[i],
                        "above_distractor": None if np.isnan(above[i]).all() else above[i] > 0,
                    }
                )
        return ANSWERS.of_rows(rows)

    def problems(self) -> list[Problem]:
        """Sentences that give NaN or Inf."""
        ids = [self._asking.asked[number].prompt_id for number in sorted(self.broken)]
        return [not_finite(f"sentences, {self._asking.who}", i) for i in ids]


def ask(
    source: Patterns, check: Check, model: str, asking: Asking, weightings: Sequence[str]
) -> Part:
    """The answers of every head to a batch of sentences, what could not be asked, and the gate.

    `check` is that of the source's patterns; `model` is under whose name the answers are kept.
    """
    gathered = _Answers(check, asking, weightings)
    ids = [one.token_ids for one in asking.asked]
    source.watch(ids, gathered.see, "moved" in weightings)
    error = worst(gathered.errors) if gathered.errors else None
    return Part({"answers": gathered.table(model)}, gathered.problems(), {ERROR: error})
